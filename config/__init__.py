"""Settings, logging, and the flows that ship with the service."""
