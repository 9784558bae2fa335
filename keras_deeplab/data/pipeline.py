"""Picture and label files in; endless augmented batches (`training_data`) or unchanged pairs (`evaluation_data`) out.

Every random number of training depends only on (seed, index of the example). The index counts on over all epochs.
Hence the number of threads or processes does not change the batches, and training can resume at any step without making
the batches before it.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.data import folder, transforms
from keras_deeplab.data.label_rule import label_table
from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.networks.deeplab import positive_int
from keras_deeplab.pictures import labels as label_files
from keras_deeplab.pictures.decode import decode_image
from keras_deeplab.pictures.files import JPEG, JPEG_END, PNG
from keras_deeplab.pictures.labels import decode_label as decode_label  # where it was before
from keras_deeplab.pictures.read import read_bytes

EXIF_ENDS = 1 << 14  # bytes at the beginning and at the end of a PNG that are searched for its eXIf chunk


def training_data(
    images,
    labels=None,
    *,
    resize_base: tuple[int, int] | None,
    resize_ratio: tuple[float, float],
    crop: tuple[int, int],
    cat_max_ratio: float,
    flip: float,
    photometric: bool = True,
    reduce_zero_label: bool,
    batch: int,
    seed: int,
    start_step: int = 0,
    input_context=None,
    process: tuple[int, int] = (0, 1),
    augment: Callable | None = None,
    skip_corrupt: bool = False,
    label_map: dict[int, int] | None = None,
    num_classes: int | None = None,
    allow_missing_classes: bool = False,
) -> tf.data.Dataset:
    """Endless shuffled batches of augmented crops.

    Args:
        images, labels: two folders (files of the same stem belong together), or two lists of files in the same order.
            Images are JPEG, PNG or TIFF, whatever their names: all that `read_image` reads. Labels are PNG, grey or
            palette, whose values are the classes and 255.
            `images` can also be the pairs that `open_prepared` returns, without `labels`.
        resize_base: the two sides, in pixels, of the box that a ratio of 1 fits pictures into. None: every picture's own
            size.
        resize_ratio: (lowest, highest) random factor for the sides of that box.
        crop: (height, width) in pixels.
        cat_max_ratio: a crop is drawn again if one class covers this share of its labelled pixels or more; 1 turns this
            off.
        flip: probability of mirroring left to right.
        photometric: whether to change brightness, contrast, saturation and hue at random. Default True.
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
        label_map: {label in the files: class number}, applied after `reduce_zero_label`; 255 stands for "no class". Labels
            that it does not name stay. Masks of 0 and 255 need {255: 1}.
        num_classes: number of classes. Then every class must occur in a label map. None (the default): at least two must.
            Label maps are read for this until all were seen, at most once each. Prepared data are not read.
        allow_missing_classes: whether classes may be missing in the label maps. Then none is read.

    Returns:
        `tf.data.Dataset` of images (N, height, width, 3) float32, RGB of 0..255, and labels (N, height, width) uint8.

    Raises:
        ValueError: if files are missing, the batch cannot be divided, or a class occurs in no label map.
        tf.errors.InvalidArgumentError: while the dataset is read, with the name of the file: if a file is damaged, a
            picture and its label differ in size, or a label is no PNG, is RGB or has 16 bits.
    """
    pairs = find_pairs(images, labels)
    _check_label_rule(pairs, reduce_zero_label, label_map)
    if not (allow_missing_classes or pairs.train_ids):
        folder.require_classes(pairs, num_classes, reduce_zero_label, label_map)
    height, width = crop
    crop = height, width  # a tuple, also where a list came
    batch = positive_int("batch", batch)
    first, count, size = _share(batch, input_context, process)
    skipped: list[str] | None = [] if skip_corrupt else None

    @tf.autograph.experimental.do_not_convert
    def example(index, number):
        image, label = _read_or_next(number, pairs, skipped)
        draws = transforms.draw(tf.stack([seed, index]), resize_ratio=resize_ratio, flip=flip, photometric=photometric)
        return transforms.augment_to_bytes(
            image,
            label,
            draws,
            resize_base=resize_base,
            crop=crop,
            cat_max_ratio=cat_max_ratio,
            reduce_zero=reduce_zero_label,
            label_map=label_map,
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


def evaluation_data(
    images, labels=None, *, reduce_zero_label: bool, label_map: dict[int, int] | None = None
) -> tf.data.Dataset:
    """Every picture once, in order and at its own size. The model's test protocol does the resizing.

    Args:
        images, labels, reduce_zero_label, label_map: as for `training_data`.

    Returns:
        `tf.data.Dataset` of image (H, W, 3) uint8 and label (H, W) uint8.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: as `training_data`.
    """
    pairs = find_pairs(images, labels)
    _check_label_rule(pairs, reduce_zero_label, label_map)
    table = label_table(reduce_zero_label, label_map)

    @tf.autograph.experimental.do_not_convert
    def example(number):
        image, label = _read(*pairs.tensors(number))
        return image, label if table is None else tf.gather(table, tf.cast(label, tf.int32))

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


def _check_label_rule(pairs, reduce_zero_label, label_map):
    label_table(reduce_zero_label, label_map)  # raises if the label map is wrong
    if reduce_zero_label and pairs.train_ids:
        raise ValueError("Prepared labels count from 0 already. Received: `reduce_zero_label=True`. Leave it out.")


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

    def note(path, fault):
        skipped.append(path.decode())
        print(f"skipped {path.decode()}: it cannot be decoded. {fault.decode()}", flush=True)

    def attempt(image, label, tried):
        image, label, path, fault = _decode_pair(*pairs.tensors((number + tried) % count))
        tf.cond(fault == "", tf.no_op, lambda: tf.group(tf.numpy_function(note, [path, fault], [])))
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
    image, label, _, fault = _decode_pair(*tensors)
    text = tf.strings.join([fault, " keras-deeplab check lists all such files."])
    return _values_or_error(fault != "", text, image, label)


def _values_or_error(wrong, text, *values):
    """The values, or an error with the text where `wrong`.

    Later operations depend on the check. Otherwise they could run on wrong values and raise a misleading error first.
    """
    with tf.control_dependencies([tf.debugging.Assert(~wrong, [text])]):
        return tuple(tf.identity(value) for value in values)


def _decode_pair(image_bytes, label_bytes, image_path, label_path):
    """Image, label, "" and "". If a file is damaged: an empty image, an empty label, that file's path and what is wrong.

    The graph decodes JPEG and PNG. What it cannot decode is read again by the functions of `segment` and `evaluate`, which
    read every other kind of file and say what is wrong.
    """
    header = label_files.header_of(label_bytes)
    label_bytes = _checked_label(label_bytes, label_path)
    grey_bytes = label_files.palette_as_grey(label_bytes, *header)

    def decoded_with(decode):
        def both(image, label):
            return decode(image), label_files.decode_grey(label)

        return lambda: _decode_or(both, [image_bytes, grey_bytes], _empty_pair())

    image, label = tf.case(
        [
            (_is_plain(image_bytes), decoded_with(_decode_png)),
            (_is_png(image_bytes) | _is_whole_jpeg(image_bytes), decoded_with(decode_image)),
        ],
        default=_empty_pair,
    )
    label = label_files.unscaled(label, *header)
    image, label, path, fault = tf.cond(
        tf.size(label) == 0,
        lambda: _read_again(image_bytes, label_bytes, image_path, label_path),
        lambda: (image, label, "", ""),
    )
    differ = tf.reduce_any(tf.shape(image)[:2] != tf.shape(label))
    sizes = [tf.strings.reduce_join(tf.strings.as_string(tf.shape(x)[1::-1]), separator="x") for x in (image, label)]
    text = [image_path, " is ", sizes[0], " (width x height), but its label ", label_path, " is ", sizes[1], "."]
    return _values_or_error(differ, tf.strings.join(text), image, label, path, fault)


def _read_again(*tensors):
    """What `_decode_pair` returns, by the functions that decide for one file everywhere."""

    def read(image_bytes, label_bytes, image_path, label_path):
        path = image_path  # of the file that is being read
        try:
            image = read_bytes(image_bytes, image_path.decode(), decode=decode_image)
            path = label_path
            label = label_files.read_label(label_bytes, label_path.decode(), decode=decode_label)
        except ValueError as error:
            return np.zeros([0, 0, 3], np.uint8), np.zeros([0, 0], np.uint8), path, str(error).encode()
        return image, label, b"", b""

    results = tf.numpy_function(read, tensors, [tf.uint8, tf.uint8, tf.string, tf.string])
    shapes = [None, None, 3], [None, None], [], []
    return tuple(tf.ensure_shape(result, shape) for result, shape in zip(results, shapes, strict=True))


def _decode_or(decode, data, fallback):
    """`decode(*data)`, or `fallback` if that fails.

    A graph cannot catch an error, but `ignore_errors` of tf.data can: hence a dataset of one element. tf.data examines
    all operations of `decode` for each example, so `decode` should have few.
    """
    decoded = tf.data.Dataset.from_tensors(tuple(data)).map(decode).ignore_errors()
    return decoded.concatenate(tf.data.Dataset.from_tensors(fallback)).take(1).get_single_element()


def _is_png(data):
    return tf.strings.substr(data, 0, len(PNG)) == PNG


def _is_plain(data):
    """Whether a file is a PNG without Exif. Most are, and these need no search for their orientation."""
    tail = tf.maximum(tf.strings.length(data) - EXIF_ENDS, 0)
    ends = tf.strings.substr(data, 0, EXIF_ENDS) + tf.strings.substr(data, tail, EXIF_ENDS)
    return _is_png(data) & ~tf.strings.regex_full_match(ends, rb"\C*eXIf\C*")


def _is_whole_jpeg(data):
    """Whether a JPEG has its end marker. Others are read without the graph, whose libjpeg writes to the terminal."""
    tail = tf.maximum(tf.strings.length(data) - len(JPEG_END), 0)
    return (tf.strings.substr(data, 0, len(JPEG)) == JPEG) & (tf.strings.substr(data, tail, len(JPEG_END)) == JPEG_END)


def _decode_png(data):
    return tf.io.decode_png(data, channels=3)


def _checked_label(data, path):
    """The bytes of a label file, unchanged; an error if it would decode to something other than classes."""
    fault = label_files.label_fault(data)
    return _values_or_error(fault != "", tf.strings.join([path, " ", fault, ". ", label_files.RULE]), data)[0]


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
