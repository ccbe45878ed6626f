"""Text encoding: prompts to token ids, and token ids to embeddings."""
