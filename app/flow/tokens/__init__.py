"""State tokens, and the JavaScript in which they are exported."""
