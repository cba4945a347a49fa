"""The JSON shapes of answers and events, camelCase, times as text."""
