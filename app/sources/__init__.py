"""Sources of definitions beside the database: files and remote addresses."""
