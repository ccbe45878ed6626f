"""Numbers about sets of images and verdicts, each with its interval."""
