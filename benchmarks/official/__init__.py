"""What `official_parity.py` runs: tiny models, the recorder of the official scripts, and efface's side of each row."""
