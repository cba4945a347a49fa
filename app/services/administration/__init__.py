"""Operations on many states: batches, migration, retirement, personal data, integrity."""
