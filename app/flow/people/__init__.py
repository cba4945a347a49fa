"""People of a state: their roles on it, claims, votes, and the rules between them."""
