"""Operations on one state: decisions, commits, history, recovery."""
