"""Values, commands, events, errors and ports: what every room speaks. Knows no library but msgspec."""
