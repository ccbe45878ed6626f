"""The method `nullspace`: a null-space edit of the text encoder."""
