"""What the trained methods share: student and teacher in one network, noisy latents, and one loop that can be resumed.

A method brings an `Objective`: the tensors it trains, its data for a step, its loss. `train_eraser` does the rest:
accelerate (mixed precision, gradient accumulation, several processes), checkpoints, progress, tracking, and the eraser.
"""
