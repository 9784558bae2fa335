"""What the tests and the makers of tests/golden draw alike: weights, pictures, and which values of a result to keep."""

import zlib

import numpy as np

# Widths of the narrow models that stand for the full ones: the same layers, rates and strides.
NARROW = {"base_channels": 8, "stem_channels": 8, "aspp_channels": 16, "low_level_channels": 6, "auxiliary_channels": 8}
SIZES = ((33, 47), (64, 96), (65, 97))  # height, width of pictures: tiny and odd, even, odd
FULL_SIZES = ((65, 97), (129, 161))


def weights(name, shape, seed=0):
    """A float32 tensor that depends on its PyTorch name, its shape and the seed alone."""
    generator = np.random.Generator(np.random.Philox(key=[zlib.crc32(name.encode()), seed]))
    if len(shape) == 4:
        drawn = generator.standard_normal(shape) * (2.0 / np.prod(shape[1:])) ** 0.5
        if name.endswith("conv_seg.weight"):  # what all channels share cancels, so that no class wins everywhere
            drawn = 4.0 * (drawn - drawn.mean(axis=1, keepdims=True))
    elif name.endswith("conv_seg.bias"):
        drawn = 0.02 * generator.standard_normal(shape)
    elif name.endswith("running_var"):
        drawn = 0.5 + generator.random(shape)
    elif name.endswith("weight"):
        low = 0.2 if ".layer" in name else 0.5  # residual branches stay smaller than the trunk
        drawn = low + low * 2 * generator.random(shape)
    else:
        drawn = 0.2 * generator.standard_normal(shape)
    return drawn.astype(np.float32)


def images(height, width, count=1, seed=0):
    """Noise, (count, height, width, 3) uint8."""
    return np.random.default_rng([seed, height, width]).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def picture(height, width, seed):
    """Soft blobs of colour with a little noise, (height, width, 3) uint8, in integers so that it is the same everywhere."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.int64)
    for blobs in (2, 4, 8, 16):
        coarse = generator.integers(0, 256, (blobs, 2 * blobs, 3))
        total += coarse[np.arange(height) * blobs // height][:, np.arange(width) * 2 * blobs // width]
    return np.clip(total // 2 - 128 + generator.integers(-8, 9, total.shape), 0, 255).astype(np.uint8)


def sample(array, count=8):
    """Up to `count` evenly spaced indices of each of the last three axes of (N, H, W, C), ends included."""
    for axis in (1, 2, 3):
        size = array.shape[axis]
        array = np.take(array, np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)), axis=axis)
    return array


def batches(steps, count, height, width, classes, seed=0):
    """Noise and blocky label maps to train on: (steps, count, height, width, 3) uint8 and (..., height, width) uint8.

    A tenth of the pixels has the label 255.
    """
    generator = np.random.default_rng([seed, steps, height, width])
    raw = generator.integers(0, 256, (steps, count, height, width, 3), dtype=np.uint8)
    coarse = generator.integers(0, classes, (steps, count, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    labels = coarse.repeat(8, 2).repeat(8, 3)[:, :, :height, :width].copy()
    labels[generator.random(labels.shape) < 0.1] = 255
    return raw, labels


# What tests/training and its golden values train: row -> steps, (height, width), rate or None for the row's, min_kept.
TRAINED = {
    "deeplabv3plus_r18-d8_512x1024_80k_cityscapes": (20, (64, 96), None, None),
    "deeplabv3_r50-d8_769x769_80k_cityscapes": (3, (65, 97), None, None),
    "deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes": (3, (64, 96), 1e-4, 3000),
    "deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280": (5, (64, 96), None, None),
}


def few(array, count=6):
    """Up to `count` evenly spaced values of an array in PyTorch's layout, flattened."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.unique(np.linspace(0, flat.size - 1, min(count, flat.size)).round().astype(int))]
