"""Guards and payload schemas: compiled, bounded and evaluated."""
