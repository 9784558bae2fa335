"""The length of an axis and a rate in, the tiles of Winograd's convolution along it out: how many, which kind, and where."""

from functools import cache
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

    @property
    def sizes(self):
        """For each pair of kinds, row by row: the points of a tile, how many pixels it depends on and has. (16, 3)."""
        sizes = np.array([(*kind.of_input.shape, kind.side) for kind in self.kinds], "int32")
        return (sizes[:, None] * sizes).reshape(-1, 3)

    def transforms(self, name):
        """For each pair of kinds, row by row, the transform of both axes, with zeros behind and below the smaller ones."""
        matrices = [np.kron(getattr(a, name), getattr(b, name)) for a in self.kinds for b in self.kinds]
        rows, columns = np.max([matrix.shape for matrix in matrices], 0)
        padded = [np.pad(one, [(0, rows - one.shape[0]), (0, columns - one.shape[1])]) for one in matrices]
        return np.array(padded, "float32")


# The rounding error is about 2 times that of a plain convolution of the same dtype. In float32 it would be about 4 times at
# the usual points 0, 1, -1, 2, -2; in bfloat16 tiles of 4x4 would have 5 times. The tiles, their transform, and the products
# take about 20 MB each at most. In bfloat16 one product sums all channels: sums of groups would be rounded once more.
_three, _four = interpolated(3, (0.0, 0.5, -1.0, 2.0)), interpolated(4, (0.0, 0.75, -0.75, 1.5, -1.5))
FORMS = {
    "float32": Form((ONE, TWO, _three, _four), most=2**30, tiles=192, values=0, channels=512),
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


class Plan(NamedTuple):
    """How a map is cut into tiles: what does not depend on its channels. NumPy arrays, or tensors.

    Tiles of a pair of kinds, down and across, are computed in chunks of the same size. Tiles of zeros fill the last one.

    Attributes:
        sizes: (P, 3), of the pairs of kinds that occur: the points of a tile, how many pixels it depends on and has.
        transforms: of the input (P, points, pixels), of the kernel (P, points, 9), and to the output (P, pixels, points), with
            zeros behind and below the smaller ones.
        chunks: (P,), how many chunks a pair has.
        tiles: (P,), how many tiles a chunk of the pair has.
        pixels: the numbers of the pixels that each tile depends on, those of each pair (pixels, tiles) one after another;
            N * H * W stands for every pixel beyond a map.
        begins: (P,), where those of a pair begin.
        places: (N, H, W), where each pixel of the output lies in the outputs of all chunks (pixels of a tile, tiles) one after
            another.
    """

    sizes: object
    transforms: tuple
    chunks: object
    tiles: object
    pixels: object
    begins: object
    places: object

    def of_pair(self, k):
        """Of pair `k`: the pixels that each tile depends on, (pixels, tiles), and the transforms of its own size."""
        import tensorflow as tf

        points, reach, area = (self.sizes[k, i] for i in range(3))
        pixels = self.pixels[self.begins[k] : self.begins[k] + reach * self.chunks[k] * self.tiles[k]]
        of_input, of_kernel, to_output = self.transforms
        matrices = of_input[k, :points, :reach], of_kernel[k, :points], to_output[k, :area, :points]
        return tf.reshape(pixels, [reach, -1]), *matrices


def plan(n, height, width, rate, most, form):
    """The `Plan` of maps of this size, with at most `most` tiles in a chunk."""
    import tensorflow as tf

    rows, columns = Axis(height, rate, form), Axis(width, rate, form)
    counts = n * rows.counts[:, None] * columns.counts
    pairs = np.argwhere(counts) if isinstance(counts, np.ndarray) else tf.cast(tf.where(counts > 0), tf.int32)
    chunks = -(-counts // most)
    tiles = -(-counts // where(chunks == 0, 1, chunks))
    beyond = n * height * width

    def pixels_of(k):
        (y, y_inside), (x, x_inside) = rows.pixels(pairs[k, 0]), columns.pixels(pairs[k, 1])
        y, y_inside = (of_rows[:, None, None, :, None] for of_rows in (y, y_inside))
        pixels = numbers_up_to(n)[:, None, None] * (height * width) + y * width + x[:, None, None, :]
        pixels = where(y_inside & x_inside[:, None, None, :], pixels, beyond)
        count = counts[pairs[k, 0], pairs[k, 1]]
        more = chunks[pairs[k, 0], pairs[k, 1]] * tiles[pairs[k, 0], pairs[k, 1]] - count
        pixels = tf.reshape(tf.cast(pixels, tf.int32), [-1, count])
        return tf.reshape(tf.pad(pixels, [[0, 0], [0, more]], constant_values=beyond), [-1])

    if isinstance(pairs, np.ndarray):
        pixels = tf.concat([pixels_of(k) for k in range(len(pairs))], 0)
    else:
        pixels = tf.TensorArray(tf.int32, tf.shape(pairs)[0], element_shape=[None], infer_shape=False)
        _, pixels = tf.while_loop(
            lambda k, _: k < tf.shape(pairs)[0], lambda k, pixels: (k + 1, pixels.write(k, pixels_of(k))), [0, pixels]
        )
        pixels = pixels.concat()

    # For each pixel: its tile, and its place in the tile.
    (a, row, top), (b, column, left) = ([place[:, None] for place in rows.places()], columns.places())
    pair = a * 4 + b
    tile = (numbers_up_to(n)[:, None, None] * at(rows.counts, a) + row) * at(columns.counts, b) + column
    areas = form.sizes[:, 2]
    before = _sums_before(flat(chunks * tiles) * areas)
    count, area, first = (at(table, pair) for table in (flat(tiles), areas, before))
    places = first + tile + (tile // count * (area - 1) + top * at(columns.sides, b) + left) * count

    numbers = pairs[:, 0] * 4 + pairs[:, 1]
    sizes, chunks, tiles = (at(table, numbers) for table in (form.sizes, flat(chunks), flat(tiles)))
    transforms = tuple(at(form.transforms(name), numbers) for name in ("of_input", "of_kernel", "to_output"))
    return Plan(sizes, transforms, chunks, tiles, pixels, _sums_before(chunks * tiles * sizes[:, 1]), places)


@cache
def shared_plan(dtype):
    """`plan` as a function that all layers of a graph share."""
    import tensorflow as tf

    def of_tensors(n, height, width, rate, most):
        return tuple(plan(n, height, width, rate, most, FORMS[dtype]))

    signature = [tf.TensorSpec([], tf.int32)] * 5
    return tf.function(of_tensors, signature, autograph=False, experimental_attributes={"_noinline": True})


def _sums_before(numbers):
    """For each number the sum of those before it."""
    import tensorflow as tf

    return np.cumsum(numbers) - numbers if isinstance(numbers, np.ndarray) else tf.cumsum(numbers, exclusive=True)


def flat(table):
    """The entries of a table, row by row."""
    import tensorflow as tf

    return table.reshape(-1) if isinstance(table, np.ndarray) else tf.reshape(table, [-1])


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
