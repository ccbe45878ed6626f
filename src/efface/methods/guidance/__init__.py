"""Methods that act while the model runs and change no weight: each file holds the method and its guard."""
