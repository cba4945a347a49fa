"""Where definitions come from, other than the database."""
