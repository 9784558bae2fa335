"""A model and pictures in, label maps out."""
