"""Prompts to tokens and embeddings."""
