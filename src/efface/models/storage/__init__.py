"""Files of a model: a diffusers folder, or a single-file checkpoint."""
