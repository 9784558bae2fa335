"""Picture and label files in, batches out: `training_data` endless and augmented, `evaluation_data` once and as they are.

Every random number of training follows from (seed, index of the example), where the index counts on over all epochs.
Hence batches do not depend on how many threads make them or on how many processes share them, and training can go on at
any step without making the batches before it.
"""

import zlib
from collections.abc import Callable

import tensorflow as tf

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.data import transforms
from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.pictures.decode import PNG, decode_image

EXIF_ENDS = 1 << 14  # bytes at either end of a PNG where its eXIf chunk is looked for
PALETTE = 3  # a PNG's colour type
BYTES = [bytes([i]) for i in range(256)]


def training_data(
    images,
    labels=None,
    *,
    resize_base: tuple[int, int],
    resize_ratio: tuple[float, float],
    crop: tuple[int, int],
    cat_max_ratio: float,
    flip: float,
    reduce_zero_label: bool,
    batch: int,
    seed: int,
    start_step: int = 0,
    input_context=None,
    process: tuple[int, int] = (0, 1),
    augment: Callable | None = None,
    skip_corrupt: bool = False,
) -> tf.data.Dataset:
    """Endless shuffled batches of augmented crops.

    Args:
        images, labels: two folders (files of the same stem belong together), or two lists of files in the same order.
            Images are JPEG, PNG or TIFF, labels PNG, grey or palette, whose values are the classes and 255. Or what
            `open_prepared` gives, in place of images.
        resize_base: the two sides in pixels of the box that pictures are fitted into at a ratio of 1.
        resize_ratio: (lowest, highest) ratio.
        crop: (height, width) in pixels.
        cat_max_ratio: share of the labelled pixels from which on a class makes the crop be drawn again; 1 for never.
        flip: probability of mirroring.
        reduce_zero_label: whether labels count from 1, with 0 for "no class". Prepared ones never do.
        batch: global batch size: of all replicas and processes together.
        seed: integer. The same seed gives the same batches.
        start_step: batches to leave out at the start. They are not made.
        input_context: `tf.distribute.InputContext`; the batches are then those of one replica, in the order in which
            `strategy.distribute_datasets_from_function` hands them out.
        process: (index, count) of the processes that share each batch; this one makes its part.
        augment: a callable, such as a Keras or KerasCV layer, for whole batches after the augmentation above. It gets
            and returns {"images": (N, H, W, 3), "segmentation_masks": (N, H, W, 1)}, both float32. What it draws is its
            own affair: a layer with a state of its own cannot be restarted at a step.
        skip_corrupt: take the next file where one cannot be decoded. The attribute `skipped` of the dataset is the list
            of the files that were left out so far, one entry for each time, those fetched ahead included; None
            without this option, when such a file ends the training.

    Returns:
        `tf.data.Dataset` of images (N, height, width, 3) float32, RGB of 0..255, and labels (N, height, width) uint8.

    Raises:
        ValueError: if files are missing or the batch cannot be divided.
        tf.errors.InvalidArgumentError: in use, naming the file, where one is damaged, image and label differ in size, or
            a label is RGB or has 16 bits.
    """
    pairs = find_pairs(images, labels)
    _require_rule(pairs, reduce_zero_label)
    height, width = crop
    crop = height, width
    first, local, size = _share(batch, input_context, process)
    skipped: list[str] | None = [] if skip_corrupt else None

    @tf.autograph.experimental.do_not_convert
    def example(index, file):
        image, label = _read_or_next(file, pairs, skipped)
        draws = transforms.draw(tf.stack([seed, index]), resize_ratio=resize_ratio, flip=flip)
        return transforms.augment_to_bytes(
            image,
            label,
            draws,
            resize_base=resize_base,
            crop=crop,
            cat_max_ratio=cat_max_ratio,
            reduce_zero=reduce_zero_label,
        )

    seed = tf.constant(seed, tf.int64)
    data = _order(len(pairs), seed, start_step * batch)
    if local < batch:
        data = data.filter(lambda index, file: (index % batch >= first) & (index % batch < first + local))
    data = data.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    data = data.batch(size, drop_remainder=True)
    data = data.map(lambda images, sizes, labels: (transforms.finish(images, sizes, crop=crop), labels))
    if augment is not None:
        data = data.map(lambda *pair: _augmented(augment, *pair))
    data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    data = _unsharded(data.prefetch(2))
    data.skipped = skipped
    return data


def evaluation_data(images, labels=None, *, reduce_zero_label: bool) -> tf.data.Dataset:
    """Every picture once, in order, as it is; resizing is the model's protocol's task.

    Args:
        images, labels, reduce_zero_label: as for `training_data`.

    Returns:
        `tf.data.Dataset` of image (H, W, 3) uint8 and label (H, W) uint8 at the label file's own size.
    """
    pairs = find_pairs(images, labels)
    _require_rule(pairs, reduce_zero_label)

    @tf.autograph.experimental.do_not_convert
    def example(number):
        image, label = _read(*pairs.tensors(number))
        return image, transforms.reduce_zero_label(label) if reduce_zero_label else label

    data = tf.data.Dataset.range(len(pairs))
    return _unsharded(data.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2))


def files_of_step(count, batch, seed, step):
    """The numbers of the pictures, of `count`, that `training_data` puts into the batch of a step, counted from 0."""
    return [int(file) for _, file in _order(count, tf.constant(seed, tf.int64), step * batch).take(batch)]


def _require_rule(pairs, reduce_zero_label):
    if reduce_zero_label and pairs.train_ids:
        raise ValueError("Prepared labels count from 0. Received: reduce_zero_label=True; leave it out.")


def _unsharded(data):
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # its thread sleeps up to a minute, and the end of `fit` waits for it to wake
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return data.with_options(options)


def _share(batch, input_context, process):
    """Which examples of a global batch are made here, (first, count), and how many make a batch here."""
    index, count = process
    if input_context is not None:
        if count != 1:
            raise ValueError("Share batches by input_context or by process, not by both.")
        index, count = input_context.input_pipeline_id, input_context.num_input_pipelines
        replicas = input_context.num_replicas_in_sync
        if batch % replicas:
            raise ValueError(f"The global batch is divided among the replicas. Received: {batch} for {replicas}.")
        return index * (batch // count), batch // count, batch // replicas
    if not 0 <= index < count:
        raise ValueError(f"process is (index, count) with an index of 0..count - 1. Received: {tuple(process)}.")
    if batch % count:
        raise ValueError(f"The global batch is divided among the processes. Received: {batch} for {count}.")
    return index * (batch // count), batch // count, batch // count


def _order(count, seed, start):
    """(index of the example, number of its file) from example `start` on, both int64; each epoch in an order of its own."""

    def epoch(number):
        keys = tf.random.stateless_uniform([count], [seed, -1 - number], None, None, tf.int64, alg="philox")
        return tf.data.Dataset.from_tensor_slices(
            (number * count + tf.range(count, dtype=tf.int64), tf.cast(tf.argsort(keys, stable=True), tf.int64))
        )

    return tf.data.Dataset.range(start // count, tf.int64.max).flat_map(epoch).skip(start % count)


def _read_or_next(file, pairs, skipped):
    """Image and label number `file`; if they are damaged and `skipped` is a list, the next that are not."""
    count = len(pairs)
    if skipped is None:
        return _read(*pairs.tensors(file))

    def note(path):
        skipped.append(path.decode())
        print(f"skipped {path.decode()}: it cannot be decoded", flush=True)

    def attempt(image, label, tried):
        image, label, damaged = _try(*pairs.tensors((file + tried) % count))
        tf.cond(damaged == "", tf.no_op, lambda: tf.group(tf.numpy_function(note, [damaged], [])))
        return image, label, tried + 1

    image, label, _ = tf.while_loop(
        lambda image, label, tried: (tf.size(label) == 0) & (tried < count),
        attempt,
        (*_nothing(), tf.constant(0, tf.int64)),
        shape_invariants=(tf.TensorShape([None, None, 3]), tf.TensorShape([None, None]), tf.TensorShape([])),
        parallel_iterations=1,
    )
    return _unless(tf.size(label) == 0, "None of the files can be decoded.", image, label)


def _nothing():
    return tf.zeros([0, 0, 3], tf.uint8), tf.zeros([0, 0], tf.uint8)


def _read(*pair):
    image, label, damaged = _try(*pair)
    text = tf.strings.join([damaged, " is damaged: it cannot be decoded. keras-deeplab check lists all such files."])
    return _unless(damaged != "", text, image, label)


def _unless(wrong, text, *values):
    """The values, or an error. What follows must not start on values that are wrong: its own error would be the first."""
    with tf.control_dependencies([tf.debugging.Assert(~wrong, [text])]):
        return tuple(tf.identity(value) for value in values)


def _try(image_bytes, label_bytes, image_path, label_path):
    """Image, label and the path of the one that is damaged, or ""; in that case both are empty."""
    header = _header(label_bytes)
    label_bytes = _checked_label(_grey(label_bytes, *header), *header, label_path)
    plain, nothing = _is_plain(image_bytes), _nothing()

    def decoded(decode, *args):
        def other(data):
            return _decode_other(data, image_path)

        return tf.cond(plain, lambda: _decoded(decode(_decode_png), *args), lambda: _decoded(decode(other), *args))

    def which():
        image = decoded(lambda picture: picture, [image_bytes], nothing[0])
        return tf.where(tf.size(image) == 0, image_path, label_path)

    def both(picture):
        return lambda image, label: (picture(image), _decode_grey(label))

    image, label = decoded(both, [image_bytes, label_bytes], nothing)
    label = _unspread(label, *header)
    damaged = tf.cond(tf.size(label) == 0, which, lambda: tf.constant(""))
    differ = tf.reduce_any(tf.shape(image)[:2] != tf.shape(label))
    sizes = [tf.strings.reduce_join(tf.strings.as_string(tf.shape(x)[1::-1]), separator="x") for x in (image, label)]
    text = [image_path, " is ", sizes[0], " (width x height), its label ", label_path, " ", sizes[1], "."]
    return _unless(differ, tf.strings.join(text), image, label, damaged)


def _decoded(decode, data, otherwise):
    """`decode(*data)`, or `otherwise` where that fails: tf.data's way to go on after an error, for one element.

    Each time tf.data looks through all operations of `decode`: it should have few.
    """
    tried = tf.data.Dataset.from_tensors(tuple(data)).map(decode).ignore_errors()
    return tried.concatenate(tf.data.Dataset.from_tensors(otherwise)).take(1).get_single_element()


def _is_plain(data):
    """Whether it is a PNG without Exif, as most are: it is spared the search for its orientation."""
    is_png = tf.strings.substr(data, 0, len(PNG)) == PNG
    tail = tf.maximum(tf.strings.length(data) - EXIF_ENDS, 0)
    ends = tf.strings.substr(data, 0, EXIF_ENDS) + tf.strings.substr(data, tail, EXIF_ENDS)
    return is_png & ~tf.strings.regex_full_match(ends, rb"\C*eXIf\C*")


def _decode_png(data):
    return tf.io.decode_png(data, channels=3)


def _decode_other(data, path):
    """`decode_image`, or Pillow for TIFF."""
    is_tiff = tf.strings.regex_full_match(tf.strings.lower(path), r".*\.tiff?")
    image = tf.cond(is_tiff, lambda: _decode_tiff(path), lambda: decode_image(data))
    return tf.ensure_shape(image, [None, None, 3])


def _decode_tiff(path):
    from keras_deeplab.pictures.read import read_image

    return tf.ensure_shape(tf.numpy_function(lambda p: read_image(p.decode()), [path], tf.uint8), [None, None, 3])


def _header(data):
    """A PNG's bit depth and colour type; of anything else 8 and 0."""

    def read():
        return tuple(tf.unstack(tf.cast(tf.io.decode_raw(tf.strings.substr(data, 24, 2), tf.uint8), tf.int32), num=2))

    is_png = (tf.strings.substr(data, 0, len(PNG)) == PNG) & (tf.strings.length(data) > 33)
    return tf.cond(is_png, read, lambda: (tf.constant(8), tf.constant(0)))


def _checked_label(data, depth, colour, path):
    """The bytes of a label file; those that would decode, but to something else than classes, are refused."""
    kind = tf.where(
        depth == 16, "has 16 bits", tf.where((colour == 0) | (colour == PALETTE), "", "has colours or alpha")
    )
    text = [path, " ", kind, ". A label is an 8-bit PNG, grey or palette, whose values are the classes and 255."]
    return _unless(kind != "", tf.strings.join(text), data)[0]


def decode_label(data):
    """The values of a grey PNG, or the indices (not the colours) of a palette PNG; (H, W) uint8.

    Args:
        data: string scalar, the bytes of the file. One bit per pixel gives 0 and 1.
    """
    header = _header(data)
    return _unspread(_decode_grey(_grey(data, *header)), *header)


def _decode_grey(data):
    return tf.io.decode_png(data, channels=1)[..., 0]


def _grey(data, depth, colour):
    return tf.cond(colour == PALETTE, lambda: _as_grey(data), lambda: data)


def _unspread(label, depth, colour):
    """The values as they are in the file: the decoder spreads those of less than 8 bits over 0..255."""
    steps = tf.maximum(tf.bitwise.left_shift(1, depth) - 1, 1)  # a damaged file may say 0 bits
    spread = tf.where((colour == PALETTE) | (depth == 1), 255 // steps, 1)
    return tf.cond(spread > 1, lambda: label // tf.cast(spread, tf.uint8), lambda: label)


# TensorFlow turns a palette into its colours. The same file with the colour type of a grey one decodes to the indices.
# A checksum of equal-length data differs by the checksums' exclusive or, whatever the data.
_TYPE_CHECKSUM = zlib.crc32(bytes([PALETTE, 0, 0, 0])) ^ zlib.crc32(bytes(4))


def _as_grey(data):
    old = tf.io.decode_raw(tf.strings.substr(data, 29, 4), tf.uint8)
    new = tf.bitwise.bitwise_xor(old, tf.constant(list(_TYPE_CHECKSUM.to_bytes(4, "big")), tf.uint8))
    checksum = tf.strings.reduce_join(tf.gather(tf.constant(BYTES), tf.cast(new, tf.int32)))
    part = tf.strings.substr
    return tf.strings.join([part(data, 0, 25), b"\0", part(data, 26, 3), checksum, part(data, 33, -1)])


def _augmented(augment, images, labels):
    """A further augmentation of a batch; labels must come back as whole numbers."""
    shape = labels.shape
    result = augment({"images": images, "segmentation_masks": tf.cast(labels, tf.float32)[..., None]})
    masks = tf.cast(result["segmentation_masks"], tf.float32)
    tf.debugging.Assert(
        tf.reduce_all((masks == tf.round(masks)) & (masks >= 0) & (masks <= IGNORE)),
        ["augment must give labels as whole numbers of 0..255: it interpolated or blended them."],
    )
    masks = tf.cast(masks if masks.shape.rank == 3 else masks[..., 0], tf.uint8)
    return tf.ensure_shape(tf.cast(result["images"], tf.float32), [*shape, 3]), tf.ensure_shape(masks, shape)
