"""How images travel: registries with logins, retries and mirrors, layouts, archives, and the storage of other tools."""
