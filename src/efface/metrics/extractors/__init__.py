"""Feature extractors: one file each, with its entry."""
