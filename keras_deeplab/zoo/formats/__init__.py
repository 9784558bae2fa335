"""Released files in, {tensor name: array} out: one module for each kind of file."""
