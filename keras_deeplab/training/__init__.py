"""Batches in, weights out: losses, optimizers and schedules, and the tools that monitor, save and continue a run."""
