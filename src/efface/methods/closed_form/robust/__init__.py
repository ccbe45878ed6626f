"""The method `robust`: it erases, searches for embeddings that restore the concept, and erases those too."""
