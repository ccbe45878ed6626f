"""The edits that an eraser consists of: their kinds, and how several of one kind are combined."""
