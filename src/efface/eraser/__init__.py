"""The eraser: the record on disk, the check of its base model, solving, restoring, composing, certifying."""
