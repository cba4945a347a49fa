"""Checks of a definition as its author wrote it.

Each check gets decoded JSON of any shape, and yields findings about the members that have the right type;
``schema`` reports those that have not.
"""
