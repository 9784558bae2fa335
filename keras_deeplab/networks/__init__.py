"""A picture in, logits out. The files read like the papers; `fast/` computes the same convolutions sooner."""
