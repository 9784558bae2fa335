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
        channels: at most so many channels are transformed together; None for all.
    """

    kinds: tuple
    most: int
    tiles: int
    values: int
    channels: int | None

    @property
    def sizes(self):
        """For each pair of kinds, row by row: the points of a tile, how many pixels it depends on and has. (16, 3)."""
        sizes = np.array([(*kind.of_input.shape, kind.side) for kind in self.kinds], "int32")
        return (sizes[:, None] * sizes).reshape(-1, 3)


# The rounding error is about 2 times that of a plain convolution of the same dtype. In float32 it would be about 4 times at
# the usual points 0, 1, -1, 2, -2; in bfloat16 tiles of 4x4 would have 5 times. The tiles, their transform, and the products
# take about 20 MB each at most. In bfloat16 one product sums all channels: sums of groups would be rounded once more.
_three, _four = interpolated(3, (0.0, 0.5, -1.0, 2.0)), interpolated(4, (0.0, 0.75, -0.75, 1.5, -1.5))
FORMS = {
    "float32": Form((ONE, TWO, _three, _four), most=2**30, tiles=160, values=2**16, channels=512),
    "bfloat16": Form((ONE, TWO, THREE, _pair), most=3, tiles=256, values=2**18, channels=None),
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
    """How a map is cut into tiles. NumPy arrays and lists, or tensors and TensorArrays.

    Tiles of a pair of kinds, down and across, are computed in chunks of the same size. Tiles of zeros fill the last one.

    Attributes:
        counts: (4, 4), the tiles of each pair of kinds.
        chunks: for each pair that occurs, how many chunks it has.
        tiles: for each such pair, how many tiles a chunk has.
        places: (N, H, W), where each pixel of the output lies in the outputs of all chunks (pixels of a tile, tiles) one after
            another.
        group: how many channels are transformed together.
        pixels: for each pair, the numbers of the pixels that each tile depends on, (pixels, tiles). N * H * W stands for every
            pixel beyond a map.
        of_input: for each pair, the transform of both axes of the input, (points, pixels),
        of_kernel: of the kernel, (points, 9),
        to_output: and to the output, (pixels, points).
    """

    counts: object
    chunks: object
    tiles: object
    places: object
    group: object
    pixels: object
    of_input: object
    of_kernel: object
    to_output: object

    @property
    def of_pairs(self):
        """What has an element for each pair: `pixels` and the transforms."""
        return self.pixels, self.of_input, self.of_kernel, self.to_output


def plan(n, height, width, rate, group, form):
    """The `Plan` of maps of this size, with `group` channels transformed together."""
    import tensorflow as tf

    most = form.values // group
    most = where(most < form.tiles, form.tiles, most)  # tiles of a chunk
    rows, columns = Axis(height, rate, form), Axis(width, rate, form)
    counts = n * rows.counts[:, None] * columns.counts
    pairs = np.argwhere(counts) if isinstance(counts, np.ndarray) else tf.cast(tf.where(counts > 0), tf.int32)
    chunks = -(-counts // most)
    tiles = -(-counts // where(chunks == 0, 1, chunks))
    beyond = n * height * width

    def of_pair(k):
        """Of pair `k`: the pixels of its tiles, and its transforms."""
        down, across = pairs[k, 0], pairs[k, 1]
        (y, y_inside), (x, x_inside) = rows.pixels(down), columns.pixels(across)
        y, y_inside = (of_rows[:, None, None, :, None] for of_rows in (y, y_inside))
        pixels = numbers_up_to(n)[:, None, None] * (height * width) + y * width + x[:, None, None, :]
        pixels = where(y_inside & x_inside[:, None, None, :], pixels, beyond)
        count = counts[down, across]
        more = chunks[down, across] * tiles[down, across] - count
        pixels = tf.pad(tf.reshape(tf.cast(pixels, tf.int32), [-1, count]), [[0, 0], [0, more]], constant_values=beyond)
        return pixels, *(product_of_axes(form, name, down, across) for name in ("of_input", "of_kernel", "to_output"))

    # For each pixel: its tile, and its place in the tile.
    (a, row, top), (b, column, left) = ([place[:, None] for place in rows.places()], columns.places())
    pair = a * 4 + b
    tile = (numbers_up_to(n)[:, None, None] * at(rows.counts, a) + row) * at(columns.counts, b) + column
    areas = form.sizes[:, 2]
    before = _sums_before(flat(chunks * tiles) * areas)
    count, area, first = (at(table, pair) for table in (flat(tiles), areas, before))
    places = first + tile + (tile // count * (area - 1) + top * at(columns.sides, b) + left) * count

    numbers = pairs[:, 0] * 4 + pairs[:, 1]
    return Plan(counts, at(flat(chunks), numbers), at(flat(tiles), numbers), places, group, *_of_each(pairs, of_pair))


def product_of_axes(form, name, down, across):
    """A transform of both axes: the Kronecker product of those of the kinds of these numbers."""
    import tensorflow as tf

    matrices = [getattr(kind, name) for kind in form.kinds]
    if isinstance(down, np.integer):
        return np.kron(matrices[down], matrices[across]).astype("float32")
    shapes = np.array([matrix.shape for matrix in matrices], "int32")
    rows, columns = shapes.max(0)
    padded = [np.pad(one, [(0, rows - one.shape[0]), (0, columns - one.shape[1])]) for one in matrices]
    padded, shapes = tf.constant(np.array(padded, "float32")), tf.constant(shapes)
    a, b = (padded[kind, : shapes[kind, 0], : shapes[kind, 1]] for kind in (down, across))
    return tf.reshape(a[:, None, :, None] * b[:, None], shapes[down] * shapes[across])


def _of_each(pairs, of_pair):
    """What `of_pair` gives for each pair: four lists, or TensorArrays if the pairs are a tensor."""
    import tensorflow as tf

    if isinstance(pairs, np.ndarray):
        return zip(*(of_pair(k) for k in range(len(pairs))), strict=True)
    count, dtypes = tf.shape(pairs)[0], (tf.int32, tf.float32, tf.float32, tf.float32)
    arrays = [tf.TensorArray(dtype, count, element_shape=[None, None], infer_shape=False) for dtype in dtypes]

    def write(k, *arrays):
        return k + 1, *(array.write(k, matrix) for array, matrix in zip(arrays, of_pair(k), strict=True))

    return tf.while_loop(lambda k, *_: k < count, write, [0, *arrays])[1:]


def shared_plan(dtype, sizes):
    """The `Plan` that `plan` makes of these sizes, some of which are tensors, as tensors: `of_flows` makes a `Plan` of them.

    All layers of a graph share one function. Its sizes come as one tensor: if the rate came alone, as a constant, TensorFlow
    would make another function for each layer, which takes 0.1 s and 5 MiB before the first run.
    """
    import tensorflow as tf

    return _plan_of_sizes(dtype)(tf.stack(sizes))


@cache
def _plan_of_sizes(dtype):
    import tensorflow as tf

    def numbers_and_flows(sizes):
        made = plan(*tf.unstack(sizes), FORMS[dtype])
        return *made[:5], *(array.flow for array in made.of_pairs)

    signature = [tf.TensorSpec([5], tf.int32)]
    return tf.function(numbers_and_flows, signature, autograph=False, experimental_attributes={"_noinline": True})


def of_flows(tensors):
    """The `Plan` that `shared_plan` gave as tensors."""
    import tensorflow as tf

    *numbers, pixels, of_input, of_kernel, to_output = tensors
    transforms = (tf.TensorArray(tf.float32, flow=flow, infer_shape=False) for flow in (of_input, of_kernel, to_output))
    return Plan(*numbers, tf.TensorArray(tf.int32, flow=pixels, infer_shape=False), *transforms)


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
