"""Benchmarks: ``python -m bench transition``. Figures are for comparison within one run."""
