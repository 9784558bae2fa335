"""A map and a kernel in, their convolution by its definition out, in numpy."""

import numpy as np


def convolved(x, kernel, stride, rate):
    """A convolution: output (y, x) is the sum over the taps (i, j) of kernel[i, j] times the input at
    (stride * y + rate * (i - k // 2), stride * x + rate * (j - k // 2)), which is zero outside the map.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, F).
    """
    size, (_, height, width, _) = kernel.shape[0], x.shape
    pad = rate * (size // 2)
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    return sum(
        x[:, i * rate : i * rate + height : stride, j * rate : j * rate + width : stride] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )
