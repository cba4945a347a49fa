"""The HTTP interface: endpoints as values, one decoder of requests, one renderer of errors."""
