"""Which prompts an evaluation uses to ask for a concept."""
