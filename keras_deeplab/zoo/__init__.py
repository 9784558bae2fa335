"""The name of a released model in, the model with its weights out."""
