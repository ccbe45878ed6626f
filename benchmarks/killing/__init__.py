"""Commands that `benchmarks/kills.py` interrupts, the ways to interrupt them, and the comparison of what they write."""
