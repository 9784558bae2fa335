"""Pictures in, logits out. The files follow the papers step by step; `fast/` has faster ways to compute the convolutions."""
