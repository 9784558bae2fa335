"""The same results sooner. `convolution` is the one door; the ways behind it give the same numbers within rounding.

| file | what it has |
|---|---|
| convolution.py | `conv2d` and `depthwise_conv2d`, what a graph is for, and which way is taken when |
| clipped.py | atrous convolution by one matrix product for each tap |
| winograd.py | 3x3 convolution with a quarter of the multiplications |
| strided.py | 1x1 convolution of every second pixel, with a gradient that is safe |
| interleaved.py | atrous depthwise convolution as a plain one of every `rate`-th pixel |
| processor.py | what this machine's processor does well |
| folded.py | layers that exist only in networks without norms |
"""
