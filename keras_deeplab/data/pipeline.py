"""Picture and label files in; endless augmented batches (`training_data`) or unchanged pairs (`evaluation_data`) out.

Every random number of training depends only on (seed, index of the example). The index counts on over all epochs.
Hence the number of threads or processes does not change the batches, and training can resume at any step without making
the batches before it.
"""

import zlib
from collections.abc import Callable

import tensorflow as tf

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.data import transforms
from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.pictures.decode import PNG, decode_image

EXIF_ENDS = 1 << 14  # bytes at the beginning and at the end of a PNG that are searched for its eXIf chunk
PALETTE = 3  # the colour type of a PNG with a palette
BYTES = [bytes([i]) for i in range(256)]  # uint8 -> a string of one byte


def training_data(
    images,
    labels=None,
    *,
    resize_base: tuple[int, int] | None,
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
            Images are JPEG, PNG or TIFF. Labels are PNG, grey or palette, whose values are the classes and 255.
            `images` can also be the pairs that `open_prepared` returns, without `labels`.
        resize_base: the two sides, in pixels, of the box that a ratio of 1 fits pictures into; None for their own size.
        resize_ratio: (lowest, highest) random factor for the sides of that box.
        crop: (height, width) in pixels.
        cat_max_ratio: a crop is drawn again if one class covers this share of its labelled pixels or more; 1 turns this
            off.
        flip: probability of mirroring left to right.
        reduce_zero_label: whether labels count from 1, with 0 for "no class". Prepared labels never do.
        batch: global batch size: the sum over all replicas and processes.
        seed: integer. The same seed gives the same batches.
        start_step: number of batches to leave out at the start. They are not computed.
        input_context: `tf.distribute.InputContext`. Each batch is then that of one replica, in the order in which
            `strategy.distribute_datasets_from_function` hands them out.
        process: (index, count) of the processes that share each batch. This process makes its part only.
        augment: a callable, such as a Keras or KerasCV layer, that is applied to whole batches after the augmentation
            above. It gets and returns {"images": (N, H, W, 3), "segmentation_masks": (N, H, W, 1)}, both float32. Its
            random numbers do not depend on `seed`: a layer with a random state does not repeat them after a restart.
        skip_corrupt: use the next file in place of one that cannot be decoded. The attribute `skipped` of the dataset is
            the list of the files left out so far: one entry for each time, files of prefetched batches included.
            Without this option `skipped` is None, and a damaged file ends training.

    Returns:
        `tf.data.Dataset` of images (N, height, width, 3) float32, RGB of 0..255, and labels (N, height, width) uint8.

    Raises:
        ValueError: if files are missing or the batch cannot be divided.
        tf.errors.InvalidArgumentError: while the dataset is read, with the name of the file: if a file is damaged, a
            picture and its label differ in size, or a label is RGB or has 16 bits.
    """
    pairs = find_pairs(images, labels)
    _check_label_rule(pairs, reduce_zero_label)
    height, width = crop
    crop = height, width  # a tuple, also where a list came
    first, count, size = _share(batch, input_context, process)
    skipped: list[str] | None = [] if skip_corrupt else None

    @tf.autograph.experimental.do_not_convert
    def example(index, number):
        image, label = _read_or_next(number, pairs, skipped)
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
    if count < batch:
        data = data.filter(lambda index, number: (index % batch >= first) & (index % batch < first + count))
    data = data.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    data = data.batch(size, drop_remainder=True)
    data = data.map(lambda images, sizes, labels: (transforms.finish(images, sizes, crop=crop), labels))
    if augment is not None:
        data = data.map(lambda *pair: _apply_augment(augment, *pair))
    # flat_map and filter hide that the dataset is endless.
    data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    data = _with_options(data.prefetch(2))
    data.skipped = skipped
    return data


def evaluation_data(images, labels=None, *, reduce_zero_label: bool) -> tf.data.Dataset:
    """Every picture once, in order and at its own size. The model's test protocol does the resizing.

    Args:
        images, labels, reduce_zero_label: as for `training_data`.

    Returns:
        `tf.data.Dataset` of image (H, W, 3) uint8 and label (H, W) uint8.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: as `training_data`.
    """
    pairs = find_pairs(images, labels)
    _check_label_rule(pairs, reduce_zero_label)

    @tf.autograph.experimental.do_not_convert
    def example(number):
        image, label = _read(*pairs.tensors(number))
        return image, transforms.reduce_zero_label(label) if reduce_zero_label else label

    data = tf.data.Dataset.range(len(pairs))
    return _with_options(data.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2))


def files_of_step(count, batch, seed, step):
    """Which pictures are in one batch of `training_data`.

    Args:
        count: number of pictures.
        batch, seed: as for `training_data`.
        step: number of the batch, counted from 0.

    Returns:
        `batch` numbers of pictures, each 0..count - 1.
    """
    return [int(number) for _, number in _order(count, tf.constant(seed, tf.int64), step * batch).take(batch)]


def _check_label_rule(pairs, reduce_zero_label):
    if reduce_zero_label and pairs.train_ids:
        raise ValueError("Prepared labels count from 0 already. Received: reduce_zero_label=True. Leave it out.")


def _with_options(data):
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # its thread sleeps up to a minute, and the end of `fit` waits for it to wake
    # OFF: `_share` divides the batches, so tf.distribute must not divide the files as well.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return data.with_options(options)


def _share(batch, input_context, process):
    """The part of each global batch that this process makes.

    Returns:
        (first, count, size): this process makes `count` examples of each global batch, from number `first` on, and its
        dataset yields them in batches of `size`: all `count`, or one replica's share.
    """
    index, count = process
    if input_context is not None:
        if count != 1:
            raise ValueError(
                f"Share batches by input_context or by process, not by both. Received: both, process={tuple(process)}."
            )
        index, count = input_context.input_pipeline_id, input_context.num_input_pipelines
        replicas = input_context.num_replicas_in_sync
        if batch % replicas:
            raise ValueError(
                "The global batch must be divisible by the number of replicas. "
                f"Received: batch={batch} for {replicas} replicas."
            )
        return index * (batch // count), batch // count, batch // replicas
    if not 0 <= index < count:
        raise ValueError(f"process must be (index, count) with an index of 0..count - 1. Received: {tuple(process)}.")
    if batch % count:
        raise ValueError(
            "The global batch must be divisible by the number of processes. "
            f"Received: batch={batch} for {count} processes."
        )
    return index * (batch // count), batch // count, batch // count


def _order(count, seed, start):
    """An endless dataset of (index of the example, number of its file), int64, from example `start` on.

    Each epoch shuffles the files anew. Its seed is (seed, -1 - epoch), whose second number is negative: the examples'
    own random numbers use (seed, index).
    """

    def shuffled_epoch(epoch):
        keys = tf.random.stateless_uniform([count], [seed, -1 - epoch], None, None, tf.int64, alg="philox")
        return tf.data.Dataset.from_tensor_slices(
            (epoch * count + tf.range(count, dtype=tf.int64), tf.cast(tf.argsort(keys, stable=True), tf.int64))
        )

    return tf.data.Dataset.range(start // count, tf.int64.max).flat_map(shuffled_epoch).skip(start % count)


def _read_or_next(number, pairs, skipped):
    """Image and label of pair `number`. If one is damaged and `skipped` is a list, the next pair that is sound.

    `skipped` collects the paths of the damaged files.
    """
    count = len(pairs)
    if skipped is None:
        return _read(*pairs.tensors(number))

    def note(path):
        skipped.append(path.decode())
        print(f"skipped {path.decode()}: it cannot be decoded", flush=True)

    def attempt(image, label, tried):
        image, label, damaged_path = _decode_pair(*pairs.tensors((number + tried) % count))
        tf.cond(damaged_path == "", tf.no_op, lambda: tf.group(tf.numpy_function(note, [damaged_path], [])))
        return image, label, tried + 1

    image, label, _ = tf.while_loop(
        lambda image, label, tried: (tf.size(label) == 0) & (tried < count),
        attempt,
        (*_empty_pair(), tf.constant(0, tf.int64)),
        shape_invariants=(tf.TensorShape([None, None, 3]), tf.TensorShape([None, None]), tf.TensorShape([])),
        parallel_iterations=1,
    )
    text = "None of the files can be decoded. keras-deeplab check says what is wrong with each."
    return _values_or_error(tf.size(label) == 0, text, image, label)


def _empty_pair():
    return tf.zeros([0, 0, 3], tf.uint8), tf.zeros([0, 0], tf.uint8)


def _read(*tensors):
    """Image and label of one pair, from its `FilePairs.tensors`; an error that names the file if one is damaged."""
    image, label, damaged_path = _decode_pair(*tensors)
    text = " is damaged: it cannot be decoded. keras-deeplab check lists all such files."
    return _values_or_error(damaged_path != "", tf.strings.join([damaged_path, text]), image, label)


def _values_or_error(wrong, text, *values):
    """The values, or an error with the text where `wrong`.

    Later operations depend on the check. Otherwise they could run on wrong values and raise a misleading error first.
    """
    with tf.control_dependencies([tf.debugging.Assert(~wrong, [text])]):
        return tuple(tf.identity(value) for value in values)


def _decode_pair(image_bytes, label_bytes, image_path, label_path):
    """Image, label and "". If a file is damaged: an empty image, an empty label and the path of that file."""
    header = _header(label_bytes)
    label_bytes = _checked_label(_palette_as_grey(label_bytes, *header), *header, label_path)
    plain, empty = _is_plain(image_bytes), _empty_pair()

    def with_image_decoder(make_decode, *args):
        """`_decode_or` of the function that `make_decode` builds around the picture decoder for this kind of file."""

        def decode_other(data):
            return _decode_other(data, image_path)

        return tf.cond(
            plain,
            lambda: _decode_or(make_decode(_decode_png), *args),
            lambda: _decode_or(make_decode(decode_other), *args),
        )

    def find_damaged():
        image = with_image_decoder(lambda decode_image: decode_image, [image_bytes], empty[0])
        return tf.where(tf.size(image) == 0, image_path, label_path)

    def both(decode_image):
        return lambda image, label: (decode_image(image), _decode_grey(label))

    image, label = with_image_decoder(both, [image_bytes, label_bytes], empty)
    label = _unscaled(label, *header)
    damaged_path = tf.cond(tf.size(label) == 0, find_damaged, lambda: tf.constant(""))
    differ = tf.reduce_any(tf.shape(image)[:2] != tf.shape(label))
    sizes = [tf.strings.reduce_join(tf.strings.as_string(tf.shape(x)[1::-1]), separator="x") for x in (image, label)]
    text = [image_path, " is ", sizes[0], " (width x height), but its label ", label_path, " is ", sizes[1], "."]
    return _values_or_error(differ, tf.strings.join(text), image, label, damaged_path)


def _decode_or(decode, data, fallback):
    """`decode(*data)`, or `fallback` if that fails.

    A graph cannot catch an error, but `ignore_errors` of tf.data can: hence a dataset of one element. tf.data examines
    all operations of `decode` for each example, so `decode` should have few.
    """
    decoded = tf.data.Dataset.from_tensors(tuple(data)).map(decode).ignore_errors()
    return decoded.concatenate(tf.data.Dataset.from_tensors(fallback)).take(1).get_single_element()


def _is_plain(data):
    """Whether a file is a PNG without Exif. Most are, and these need no search for their orientation."""
    is_png = tf.strings.substr(data, 0, len(PNG)) == PNG
    tail = tf.maximum(tf.strings.length(data) - EXIF_ENDS, 0)
    ends = tf.strings.substr(data, 0, EXIF_ENDS) + tf.strings.substr(data, tail, EXIF_ENDS)
    return is_png & ~tf.strings.regex_full_match(ends, rb"\C*eXIf\C*")


def _decode_png(data):
    return tf.io.decode_png(data, channels=3)


def _decode_other(data, path):
    """A picture that is no plain PNG: TIFF by Pillow, everything else by `decode_image`."""
    is_tiff = tf.strings.regex_full_match(tf.strings.lower(path), r".*\.tiff?")
    image = tf.cond(is_tiff, lambda: _decode_tiff(path), lambda: decode_image(data))
    return tf.ensure_shape(image, [None, None, 3])


def _decode_tiff(path):
    """By Pillow: TensorFlow does not read TIFF."""
    from keras_deeplab.pictures.read import read_image

    return tf.ensure_shape(tf.numpy_function(lambda p: read_image(p.decode()), [path], tf.uint8), [None, None, 3])


def _header(data):
    """(bit depth, colour type) of a PNG, int32 scalars; (8, 0) for a file of another kind."""

    def read():
        return tuple(tf.unstack(tf.cast(tf.io.decode_raw(tf.strings.substr(data, 24, 2), tf.uint8), tf.int32), num=2))

    is_png = (tf.strings.substr(data, 0, len(PNG)) == PNG) & (tf.strings.length(data) > 33)
    return tf.cond(is_png, read, lambda: (tf.constant(8), tf.constant(0)))


def _checked_label(data, depth, colour, path):
    """The bytes of a label file, unchanged; an error if it would decode to something other than classes."""
    kind = tf.where(
        depth == 16, "has 16 bits", tf.where((colour == 0) | (colour == PALETTE), "", "has colours or alpha")
    )
    text = [path, " ", kind, ". A label must be an 8-bit PNG, grey or palette, whose values are the classes and 255."]
    return _values_or_error(kind != "", tf.strings.join(text), data)[0]


def decode_label(data):
    """The labels in a PNG file: the values of a grey PNG, the indices (not the colours) of a palette PNG.

    Args:
        data: string scalar, the bytes of the file. One bit per pixel gives 0 and 1.

    Returns:
        (H, W) uint8.
    """
    header = _header(data)
    return _unscaled(_decode_grey(_palette_as_grey(data, *header)), *header)


def _decode_grey(data):
    return tf.io.decode_png(data, channels=1)[..., 0]


def _palette_as_grey(data, depth, colour):
    return tf.cond(colour == PALETTE, lambda: _with_grey_type(data), lambda: data)


def _unscaled(label, depth, colour):
    """Palette indices and 1-bit values as they are in the file: the decoder scales values of fewer than 8 bits to 0..255.

    Grey values of 2 and 4 bits stay scaled, as Pillow reads them too.
    """
    highest = tf.maximum(tf.bitwise.left_shift(1, depth) - 1, 1)  # the header of a damaged file may say 0 bits
    scale = tf.where((colour == PALETTE) | (depth == 1), 255 // highest, 1)
    return tf.cond(scale > 1, lambda: label // tf.cast(scale, tf.uint8), lambda: label)


# TensorFlow decodes a palette PNG to its colours. The same file with the colour type of a grey PNG decodes to the indices.
# CRC-32 is linear: this change of the header changes its checksum by the same exclusive or in every file.
_CHECKSUM_CHANGE = zlib.crc32(bytes([PALETTE, 0, 0, 0])) ^ zlib.crc32(bytes(4))


def _with_grey_type(data):
    """The bytes of a palette PNG with the colour type (byte 25) of a grey one and the header's new checksum (29..32)."""
    old = tf.io.decode_raw(tf.strings.substr(data, 29, 4), tf.uint8)
    new = tf.bitwise.bitwise_xor(old, tf.constant(list(_CHECKSUM_CHANGE.to_bytes(4, "big")), tf.uint8))
    checksum = tf.strings.reduce_join(tf.gather(tf.constant(BYTES), tf.cast(new, tf.int32)))
    part = tf.strings.substr
    return tf.strings.join([part(data, 0, 25), b"\0", part(data, 26, 3), checksum, part(data, 33, -1)])


def _apply_augment(augment, images, labels):
    """A batch after the user's `augment`; an error if its labels are not whole numbers of 0..255."""
    shape = labels.shape
    result = augment({"images": images, "segmentation_masks": tf.cast(labels, tf.float32)[..., None]})
    masks = tf.cast(result["segmentation_masks"], tf.float32)
    tf.debugging.Assert(
        tf.reduce_all((masks == tf.round(masks)) & (masks >= 0) & (masks <= IGNORE)),
        ["`augment` must return labels that are whole numbers of 0..255. Received: interpolated or blended labels."],
    )
    masks = tf.cast(masks if masks.shape.rank == 3 else masks[..., 0], tf.uint8)
    return tf.ensure_shape(tf.cast(result["images"], tf.float32), [*shape, 3]), tf.ensure_shape(masks, shape)
