"""The encryption of stored data: wrapping keys, data keys, and the cipher of texts."""
