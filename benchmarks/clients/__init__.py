"""One script per program, which loads exported files with its own code; `benchmarks/client_loaders.py` runs them."""
