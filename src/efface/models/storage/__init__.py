"""Where the weights of a model are read from: a diffusers folder, or a single-file checkpoint."""
