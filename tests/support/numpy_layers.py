"""What the layers compute, by its definition, in numpy."""

import numpy as np


def convolved(x, kernel, stride, rate):
    """The definition: output (y, x) is the sum over taps at (stride * y + rate * (i - k // 2), ...), zero outside."""
    size, (_, height, width, _) = kernel.shape[0], x.shape
    pad = rate * (size // 2)
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    return sum(
        x[:, i * rate : i * rate + height : stride, j * rate : j * rate + width : stride] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )
