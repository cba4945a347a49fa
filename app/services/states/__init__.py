"""Operations on one state: decided, committed, recorded, recovered."""
