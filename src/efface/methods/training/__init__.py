"""The shared parts of the trained methods: student and teacher in one network, trajectories, and a resumable loop.

A method provides an `Objective`: the trained tensors, the batch of a step and the loss. `run.train_concepts` does the
rest: accelerate (mixed precision, gradient accumulation, several processes), checkpoints, progress and tracking.
"""
