"""Ports: the interfaces to the outside, one a module. ``tests/contract`` has a suite for each."""
