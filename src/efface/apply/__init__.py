"""Edits on a model: attached by hooks, or baked into weights. Nothing here knows what an eraser is."""
