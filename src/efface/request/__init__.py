"""The request: which concepts to erase, towards which guides, what to preserve, and by which method."""
