"""One file per family of models: how prompts are embedded, and which parameters read the text."""
