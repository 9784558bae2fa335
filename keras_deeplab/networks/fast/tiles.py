"""The length of an axis and a rate in, the tiles of Winograd's convolution along it out: how many, which kind, and where."""

from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """A kind of tile along an axis, and its transforms.

    Attributes:
        side: pixels of the output.
        first: the first pixel that the output depends on, counted from its own first pixel.
        of_input: (points, pixels that the output depends on).
        of_kernel: (points, 3).
        to_output: (side, points).
    """

    side: int
    first: int
    of_input: np.ndarray
    of_kernel: np.ndarray
    to_output: np.ndarray


def interpolated(side, points):
    """Tiles whose transforms evaluate polynomials at these `side + 1` points and at infinity."""
    points = np.array(points)
    others = [np.delete(points, i) for i in range(len(points))]  # for each point the other ones
    inputs = [np.append(np.poly(other)[::-1], 0.0) for other in others] + [np.poly(points)[::-1]]
    kernel = [point ** np.arange(3) / np.prod(point - other) for point, other in zip(points, others, strict=True)]
    outputs = [point ** np.arange(side) for point in points] + [np.eye(side)[-1]]
    return Kind(side, -1, np.array(inputs), np.array([*kernel, np.eye(3)[-1]]), np.array(outputs).T)


# Whole grids. One pixel: the middle tap. Two: the middle tap of their sum, and what an outer tap adds to it. Three: a tile of
# two pixels and a last pixel, whose last tap meets zeros.
ONE = Kind(1, 0, np.eye(1), np.array([[0, 1, 0]]), np.eye(1))
TWO = Kind(
    2,
    0,
    np.array([[1, 1], [0, 1], [1, 0]]),
    np.array([[0, 1, 0], [0, -1, 1], [1, -1, 0]]),
    np.array([[1, 1, 0], [1, 0, 1]]),
)
_pair = interpolated(2, (0.0, 1.0, -1.0))
THREE = Kind(
    3,
    0,
    np.vstack([_pair.of_input[:, 1:], np.eye(3)[1:]]),
    np.vstack([_pair.of_kernel, np.eye(3)[:2]]),
    np.block([[_pair.to_output, np.zeros((2, 2))], [np.zeros(4), np.ones(2)]]),
)


class Form(NamedTuple):
    """Which tiles the grids are cut into, and how many are in memory together.

    Attributes:
        kinds: `ONE`, `TWO`, and two for longer grids: all those of an axis take the one that needs fewer points.
        most: the third kind is for grids up to this length.
        tiles: so many are transformed together,
        values: or more, if the channels of all have at most so many values at a point.
        channels: at most so many channels are transformed together.
    """

    kinds: tuple
    most: int
    tiles: int
    values: int
    channels: int


# The rounding error is about 2 times that of a plain convolution of the same dtype. In float32 it would be about 4 times at
# the usual points 0, 1, -1, 2, -2; in bfloat16 tiles of 4x4 would have 5 times. The tiles, their transform, and the products
# take about 20 MB each at most. In bfloat16 one product sums all channels: sums of groups would be rounded once more.
_three, _four = interpolated(3, (0.0, 0.5, -1.0, 2.0)), interpolated(4, (0.0, 0.75, -0.75, 1.5, -1.5))
FORMS = {
    "float32": Form((ONE, TWO, _three, _four), most=2**30, tiles=256, values=0, channels=512),
    "bfloat16": Form((ONE, TWO, THREE, _pair), most=3, tiles=256, values=2**18, channels=2**20),
}


class Axis:
    """The tiles along an axis of a map. If size and rate are known, all numbers are NumPy's, otherwise tensors.

    Args:
        size: pixels of the axis.
        rate: pixels from one tap to the next, as many as there are grids.
        form: a `Form`.

    Attributes:
        counts: for each kind, the number of its tiles.
    """

    def __init__(self, size, rate, form):
        import tensorflow as tf

        if not isinstance(size, int) or not isinstance(rate, int):
            size, rate = tf.convert_to_tensor(size), tf.convert_to_tensor(rate)
        self.size, self.rate = size, rate
        self.sides, self.firsts, points, self.reaches = np.transpose(
            [(kind.side, kind.first, *kind.of_input.shape) for kind in form.kinds]
        ).astype("int32")
        # So many grids, the first ones, are one pixel longer than the others.
        self.longer = size % rate
        grids, lengths = stack([self.longer, rate - self.longer]), stack([size // rate + 1, size // rate])
        needed = total(grids[:, None] * -(-lengths[:, None] // self.sides[2:]) * points[2:])
        kind = where((needed[0] < needed[1]) & (-(-size // rate) <= form.most), 2, 3)
        self.kind = where(lengths < 3, where(lengths == 2, 1, 0), kind)  # of the tiles of both lengths of grids
        self.tiles = -(-lengths // at(self.sides, self.kind))  # of each such grid
        self.of_kinds = where(self.kind[:, None] == np.arange(4, dtype="int32"), self.tiles[:, None], 0)  # (2, 4)
        self.counts = total(grids[:, None] * self.of_kinds)

    def pixels(self, kind):
        """The pixels that each tile of a kind depends on, (pixels, tiles), and whether they lie on the map."""
        tiles = self.of_kinds[:, kind]
        tile = numbers_up_to(self.counts[kind])
        is_longer = tile < self.longer * tiles[0]
        tile = where(is_longer, tile, tile - self.longer * tiles[0])
        tiles = at(where(tiles == 0, 1, tiles), where(is_longer, 0, 1))
        grid = tile // tiles + where(is_longer, 0, self.longer)
        first = tile % tiles * at(self.sides, kind) + at(self.firsts, kind)
        pixels = grid + (first + numbers_up_to(at(self.reaches, kind))[:, None]) * self.rate
        return pixels, (pixels >= 0) & (pixels < self.size)

    def places(self):
        """Of each pixel: the kind of its tile, the number of the tile among those of its kind, and its place in the tile."""
        pixel = numbers_up_to(self.size)
        grid, in_grid = pixel % self.rate, pixel // self.rate
        is_longer = grid < self.longer
        kind = where(is_longer, self.kind[0], self.kind[1])
        side = at(self.sides, kind)
        before = where(self.kind[0] == self.kind[1], self.longer * self.tiles[0], 0)  # the tiles of the longer grids
        tile = where(is_longer, grid * self.tiles[0], before + (grid - self.longer) * self.tiles[1])
        return kind, tile + in_grid // side, in_grid % side


def transforms(form, down, across):
    """The transforms of tiles of kinds whose numbers are `down` and `across`: of the input, (points, pixels), of the kernel,
    (points, 9), and to the output, (pixels, points)."""
    for name in ("of_input", "of_kernel", "to_output"):
        matrices = [[np.kron(getattr(a, name), getattr(b, name)) for b in form.kinds] for a in form.kinds]
        if isinstance(down, int):
            yield matrices[down][across].astype("float32")
        else:
            yield _matrix_of(matrices, down, across)


def _matrix_of(matrices, down, across):
    """One of a table of matrices, where its place is two scalar tensors."""
    import tensorflow as tf

    shapes = np.array([[matrix.shape for matrix in row] for row in matrices], "int32")
    largest = shapes.max((0, 1))
    padded = np.array([[np.pad(one, [(0, more) for more in largest - one.shape]) for one in row] for row in matrices])
    shape = tf.constant(shapes)[down, across]
    return tf.constant(padded, "float32")[down, across, : shape[0], : shape[1]]


def stack(numbers):
    """An array, or a tensor if one of the numbers is a tensor."""
    if all(isinstance(number, (int, np.integer)) for number in numbers):
        return np.array(numbers, "int32")
    import tensorflow as tf

    return tf.stack(numbers)


def total(numbers):
    """The sum over the first axis."""
    import tensorflow as tf

    return numbers.sum(0, dtype="int32") if isinstance(numbers, np.ndarray) else tf.reduce_sum(numbers, 0)


def where(condition, a, b):
    """`a` or `b`; element by element where the condition is an array or a tensor."""
    import tensorflow as tf

    if isinstance(condition, (bool, np.bool_)):
        return a if condition else b
    return np.where(condition, a, b) if isinstance(condition, np.ndarray) else tf.where(condition, a, b)


def at(values, index):
    """The elements of an array or a tensor at these indices: a number, an array or a tensor."""
    import tensorflow as tf

    known = isinstance(values, np.ndarray) and isinstance(index, (int, np.integer, np.ndarray))
    return values[index] if known else tf.gather(values, index)


def numbers_up_to(size):
    """0, 1, ... size - 1."""
    import tensorflow as tf

    return np.arange(size, dtype="int32") if isinstance(size, (int, np.integer)) else tf.range(size)
