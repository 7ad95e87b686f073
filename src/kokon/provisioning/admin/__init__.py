"""What principals can do: secrets, workloads, policies, projects, principals, logs. Functions of the server's core, who
asks, and the project; each checks first that they may, and writes what it did into the log.
"""
