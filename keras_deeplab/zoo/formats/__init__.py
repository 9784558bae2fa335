"""Files of released weights in, {tensor name: array} out; one reader for each file format."""
