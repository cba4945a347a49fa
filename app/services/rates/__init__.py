"""How often, and on how many connections, clients may use the service."""
