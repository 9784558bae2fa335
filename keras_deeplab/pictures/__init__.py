"""Picture files in, RGB arrays out, and label maps drawn as pictures: decode, orient, resize, read and draw.

This room imports from no other room.
"""
