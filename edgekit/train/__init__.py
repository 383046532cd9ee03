"""Training: the loop, its checkpoints, and learning what to drop."""
