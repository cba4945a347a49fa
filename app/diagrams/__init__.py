"""Diagrams of flows: Mermaid, DOT and SVG. Pure functions."""
