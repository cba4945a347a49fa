"""The HTTP door: routes as a list, one way to decode, one way to answer, one way to refuse."""
