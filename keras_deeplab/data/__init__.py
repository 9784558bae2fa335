"""Picture and label files in, batches for training and evaluation out."""
