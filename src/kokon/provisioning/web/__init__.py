"""The server's side of HTTP: connections, TLS, limits, bodies, figures, logs, and how all of it is run and ended."""
