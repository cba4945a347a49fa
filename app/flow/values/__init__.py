"""Values of payloads and definitions: decoding, storability, errors by JSON pointer."""
