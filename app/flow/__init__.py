"""The flow rules: pure decisions over values. No clock, no I/O, no library of the outside."""
