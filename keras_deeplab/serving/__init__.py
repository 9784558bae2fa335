"""A model in, a file for a server or a converter out, checked against `segment`."""
