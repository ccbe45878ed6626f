"""Which prompts an evaluation uses to ask for a concept: of a closed world, of a file, or of the request's words."""
