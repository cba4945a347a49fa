"""The checks of a definition as its author wrote it.

Each takes decoded JSON of any shape, looks at what has the right type, and gives findings; what has not
is for ``shape`` to tell.
"""
