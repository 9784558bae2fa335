"""A name in, a model with its released weights out."""
