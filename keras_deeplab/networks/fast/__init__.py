"""Faster computations of the same convolutions: features in, the same features out within rounding.

The models reach all of them through `convolution.py`; only the layers in `folded.py` are used directly.

| file | content |
|---|---|
| convolution.py | `conv2d` and `depthwise_conv2d`, the purpose of a graph, and the choice of the way to compute |
| clipped.py | atrous convolution as one matrix product for each tap, without products with the padding |
| winograd.py | 3x3 convolution with a quarter of the multiplications, four ninths in bfloat16 |
| tiles.py | which tiles of a map Winograd's way takes, and their transforms |
| gather.py | the pixels of these tiles |
| tapped.py | atrous convolution with a fast gradient on JAX |
| strided.py | 1x1 convolution of every second pixel, with a gradient that corrupts no memory |
| interleaved.py | atrous depthwise convolution as a plain one on grids of every `rate`-th pixel |
| shifted.py | depthwise convolution as a sum of shifted maps, for XLA |
| graph.py | how operations of a TensorFlow graph share code, and in which order they run |
| processor.py | which convolutions this machine's processor computes well |
| folded.py | layers that exist only in networks without norms |
"""
