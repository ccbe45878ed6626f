"""Methods that solve a linear system: no gradient step, one edit for all layers or one per weight."""
