"""The readers that `benchmarks/fuzz.py` gives malformed files: their valid files, mutations, and how each reads one."""
