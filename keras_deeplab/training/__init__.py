"""Batches in, weights out: losses, optimizers, schedules, and what watches and saves a run."""
