"""Bytes in, RGB out, and back: decoding, Exif orientation, resizing, reading and drawing. Imports nothing else of ours."""
