"""A name, a size or a seed in, weights or pictures drawn at random out; the same for the tests and the makers of tests/golden.

Also which values of a result the golden files keep.
"""

import zlib

import numpy as np

# Widths of the narrow models. They have the layers, rates and strides of the full ones, and tests with them are fast.
NARROW = {"base_channels": 8, "stem_channels": 8, "aspp_channels": 16, "low_level_channels": 6, "auxiliary_channels": 8}
SIZES = ((33, 47), (64, 96), (65, 97))  # height, width of pictures: tiny and odd, even, odd
FULL_SIZES = ((65, 97), (129, 161))  # for models of full width


def weights(name, shape, seed=0):
    """A float32 tensor of weights that depends only on its PyTorch name, its shape and the seed."""
    generator = np.random.Generator(np.random.Philox(key=[zlib.crc32(name.encode()), seed]))
    if len(shape) == 4:
        values = generator.standard_normal(shape) * (2.0 / np.prod(shape[1:])) ** 0.5
        if name.endswith(("conv_seg.weight", "classifier.4.weight")):
            # A mean of 0 over the channels, so that no class wins everywhere.
            values = 4.0 * (values - values.mean(axis=1, keepdims=True))
    elif name.endswith(("conv_seg.bias", "classifier.4.bias")):
        values = 0.02 * generator.standard_normal(shape)
    elif name.endswith("running_var"):
        values = 0.5 + generator.random(shape)
    elif name.endswith("weight"):
        residual = ".layer" in name or ".block." in name
        low = 0.2 if residual else 0.5  # residual branches add less than the shortcut has
        values = low + low * 2 * generator.random(shape)
    else:
        values = 0.2 * generator.standard_normal(shape)
    return values.astype(np.float32)


def images(height, width, count=1, seed=0):
    """Pictures of noise, (count, height, width, 3) uint8."""
    return np.random.default_rng([seed, height, width]).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def picture(height, width, seed):
    """A picture of coloured blocks of several sizes with a little noise, (height, width, 3) uint8.

    It is computed in integers, so that it is the same on every machine.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.int64)
    for blobs in (2, 4, 8, 16):
        coarse = generator.integers(0, 256, (blobs, 2 * blobs, 3))
        total += coarse[np.arange(height) * blobs // height][:, np.arange(width) * 2 * blobs // width]
    return np.clip(total // 2 - 128 + generator.integers(-8, 9, total.shape), 0, 255).astype(np.uint8)


def sample(array, count=8):
    """An array (N, H, W, C) at up to `count` evenly spaced indices of each of its last three axes, with both ends."""
    for axis in (1, 2, 3):
        size = array.shape[axis]
        array = np.take(array, np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)), axis=axis)
    return array


def batches(steps, count, height, width, classes, seed=0):
    """Training batches of noise and of label maps that consist of 8x8 blocks, a tenth of whose pixels has the label 255.

    Returns:
        pictures (steps, count, height, width, 3) uint8 and label maps (steps, count, height, width) uint8.
    """
    generator = np.random.default_rng([seed, steps, height, width])
    raw = generator.integers(0, 256, (steps, count, height, width, 3), dtype=np.uint8)
    coarse = generator.integers(0, classes, (steps, count, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    labels = coarse.repeat(8, 2).repeat(8, 3)[:, :, :height, :width].copy()
    labels[generator.random(labels.shape) < 0.1] = 255
    return raw, labels


# The training runs of tests/training and of its golden values: {row: (steps, (height, width), learning rate or None for the
# row's own, min_kept of the hard example mining or None)}.
TRAINING_RUNS = {
    "deeplabv3plus_r18-d8_512x1024_80k_cityscapes": (20, (64, 96), None, None),
    "deeplabv3_r50-d8_769x769_80k_cityscapes": (3, (65, 97), None, None),
    "deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes": (3, (64, 96), 1e-4, 3000),
    "deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280": (5, (64, 96), None, None),
    "deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes": (5, (64, 96), 1e-3, None),
}


def evenly_spaced(array, count=6):
    """Up to `count` evenly spaced values of an array in PyTorch's layout, flattened. Golden files call them "few"."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.unique(np.linspace(0, flat.size - 1, min(count, flat.size)).round().astype(int))]


# Of torchvision's networks: {row: output strides, the released one first}, (row, short side of the preset, sizes of pictures),
# and training runs {row: (steps, (height, width), learning rate, weight decay)}.
TORCHVISION_STRIDES = {
    "deeplabv3_resnet50_coco": (8, 16, 32),
    "deeplabv3_resnet101_coco": (8,),
    "deeplabv3_mobilenet_v3_large": (16, 32),
}
TORCHVISION_SEGMENT = (
    ("deeplabv3_mobilenet_v3_large", 130, ((195, 260), (97, 61), (131, 300))),
    ("deeplabv3_resnet50_coco", 520, ((480, 640), (640, 427), (33, 95))),
)
TORCHVISION_RUNS = {
    "deeplabv3_resnet50_coco": (3, (65, 97), 0.02, 1e-4),
    "deeplabv3_mobilenet_v3_large": (5, (64, 96), 0.01, 1e-6),
}
