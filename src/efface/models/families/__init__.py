"""One file per family of models: how prompts become embeddings, and which parameters read them."""
