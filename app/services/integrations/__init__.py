"""Integrations: registrations, the events that they receive, and what they may do."""
