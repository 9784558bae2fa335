"""Batches for training and evaluation: the same for one seed however they are made, and errors that name bad files."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.drawn import picture

from keras_deeplab.data import transforms
from keras_deeplab.data.pipeline import decode_label, evaluation_data, training_data
from keras_deeplab.networks.layers import MEAN
from keras_deeplab.pictures.read import read_image

COUNT, BATCH, CROP = 5, 4, (32, 40)
OPTIONS = dict(
    resize_base=(64, 48),
    resize_ratio=(0.5, 2.0),
    crop=CROP,
    cat_max_ratio=0.75,
    flip=0.5,
    reduce_zero_label=False,
    batch=BATCH,
    seed=7,
)


def label_of(number, height=48, width=64):
    coarse = np.random.default_rng(number).integers(0, 4, (6, 8)).astype(np.uint8)
    coarse[0, 0] = 255
    return coarse[np.arange(height) * 6 // height][:, np.arange(width) * 8 // width]


@pytest.fixture
def folders(tmp_path):
    return draw(tmp_path)


@pytest.fixture(scope="module")
def six_batches(tmp_path_factory):
    """The first six batches of the sound folders. The `folders` of every test hold the same files."""
    return batches(draw(tmp_path_factory.mktemp("sound")), 6)


def draw(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for number in range(COUNT):
        name = f"{number}.{('png', 'jpg', 'tif')[number % 3]}"
        Image.fromarray(picture(48, 64, number)).save(images / name)
        label = Image.fromarray(label_of(number))
        if number % 2:
            label.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        label.save(labels / f"{number}.png")
    return images, labels


def batches(folders, steps, **options):
    data = training_data(*folders, **{**OPTIONS, **options})
    return [tuple(x.numpy() for x in pair) for pair in itertools.islice(data, steps)]


def equal(ours, expected):
    return len(ours) == len(expected) and all(
        np.array_equal(a, b) for x, y in zip(ours, expected, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_batches_have_the_promised_types_and_shapes(folders):
    data = training_data(*folders, **OPTIONS)
    images, labels = data.element_spec
    assert (images.shape, images.dtype) == ((BATCH, *CROP, 3), tf.float32)
    assert (labels.shape, labels.dtype) == ((BATCH, *CROP), tf.uint8)
    assert data.cardinality() == tf.data.INFINITE_CARDINALITY
    images, labels = next(iter(data))
    assert 0 <= images.numpy().min() and images.numpy().max() <= 255 and set(np.unique(labels)) <= {0, 1, 2, 3, 255}


def test_every_example_is_drawn_from_the_seed_and_its_index(folders, six_batches):
    """Example 9, the last of the second epoch's five, is drawn from (seed, 9)."""
    image, label = (x[9 % BATCH] for x in six_batches[9 // BATCH])
    files = sorted(folders[0].iterdir())
    options = dict(resize_base=OPTIONS["resize_base"], crop=CROP, cat_max_ratio=0.75, reduce_zero=False)
    draws = transforms.draw(tf.constant([7, 9], tf.int64), resize_ratio=(0.5, 2.0), flip=0.5)
    candidates = [transforms.augment(read_image(path), label_of(int(path.stem)), draws, **options) for path in files]
    assert sum(np.array_equal(image, x) and np.array_equal(label, y) for x, y in candidates) == 1


def test_an_epoch_shows_every_file_once_and_epochs_differ(folders):
    plain = dict(resize_base=(64, 48), resize_ratio=(1.0, 1.0), crop=(48, 64), cat_max_ratio=1, flip=0.0, batch=COUNT)
    orders = []
    for _, labels in batches(folders, 4, **plain):
        numbers = [n for label in labels for n in range(COUNT) if np.array_equal(label, label_of(n))]
        assert sorted(numbers) == list(range(COUNT))
        orders.append(tuple(numbers))
    assert len(set(orders)) > 1


def test_a_seed_decides_everything(folders, six_batches):
    assert equal(six_batches[:3], batches(folders, 3)) and not equal(six_batches[:3], batches(folders, 3, seed=8))


def test_starting_later_gives_the_same_later_batches(folders, six_batches):
    for start in (1, 4):
        assert equal(six_batches[start:], batches(folders, 6 - start, start_step=start))


@pytest.mark.slow
def test_starting_later_does_not_read_earlier_files(folders):
    """The file of the first batch is damaged. Starting at the second batch does not notice."""
    second = [*itertools.islice(training_data(*folders, **{**OPTIONS, "batch": 1}), 2)][1]
    plain = dict(OPTIONS, batch=1, crop=(48, 64), resize_ratio=(1.0, 1.0), cat_max_ratio=1, flip=0.0)
    (_, label) = next(iter(training_data(*folders, **plain)))
    (first,) = [n for n in range(COUNT) if np.array_equal(label[0], label_of(n))]
    next(folders[0].glob(f"{first}.*")).write_bytes(b"nothing")
    with pytest.raises(tf.errors.InvalidArgumentError, match="damaged"):
        next(iter(training_data(*folders, **{**OPTIONS, "batch": 1})))
    later = next(iter(training_data(*folders, **{**OPTIONS, "batch": 1, "start_step": 1})))
    assert all(np.array_equal(a, b) for a, b in zip(second, later, strict=True))


def test_the_parts_of_processes_are_the_batch(folders, six_batches):
    count = 2
    parts = [batches(folders, 3, start_step=2, process=(index, count)) for index in range(count)]
    assert equal(
        six_batches[2:5], [tuple(map(np.concatenate, zip(*step, strict=True))) for step in zip(*parts, strict=True)]
    )


@pytest.mark.parametrize("pipelines, replicas", [pytest.param(1, 2, marks=pytest.mark.slow), (2, 4)])
def test_the_parts_of_replicas_are_the_batch(folders, six_batches, pipelines, replicas):
    per_pipeline, steps = replicas // pipelines, []
    parts = [
        batches(folders, 3 * per_pipeline, input_context=tf.distribute.InputContext(pipelines, index, replicas))
        for index in range(pipelines)
    ]
    for step in range(3):
        of_replicas = [pair for part in parts for pair in part[step * per_pipeline : (step + 1) * per_pipeline]]
        steps.append(tuple(map(np.concatenate, zip(*of_replicas, strict=True))))
    assert equal(six_batches[:3], steps)


def test_mirrored_strategy_distributes_it(folders, six_batches):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    data = strategy.distribute_datasets_from_function(
        lambda context: training_data(*folders, **OPTIONS, input_context=context)
    )
    images, labels = next(iter(data))
    assert equal([(images.numpy(), labels.numpy())], six_batches[:1])


def test_a_batch_that_cannot_be_divided_is_refused(folders):
    for options, message in (
        (dict(process=(0, 3)), "must be divisible .* Received: batch=4 for 3 processes"),
        (dict(process=(2, 2)), "index of 0..count - 1"),
        (
            dict(input_context=tf.distribute.InputContext(1, 0, 3)),
            "must be divisible .* Received: batch=4 for 3 replicas",
        ),
        (dict(input_context=tf.distribute.InputContext(1, 0, 1), process=(0, 2)), "not by both"),
    ):
        with pytest.raises(ValueError, match=message):
            training_data(*folders, **{**OPTIONS, **options})


def test_the_zero_label_is_reduced(folders):
    (plain,), (reduced,) = (batches(folders, 1, cat_max_ratio=1, reduce_zero_label=rule) for rule in (False, True))
    assert np.array_equal(reduced[1], transforms.reduce_zero_label(tf.constant(plain[1])))
    for rule in (False, True):
        for number, (image, label) in enumerate(evaluation_data(*folders, reduce_zero_label=rule)):
            expected = tf.constant(label_of(number))
            assert np.array_equal(label, transforms.reduce_zero_label(expected) if rule else expected)
            assert np.array_equal(image, read_image(sorted(folders[0].iterdir())[number]))


def test_a_keras_layer_can_be_added(folders, six_batches):
    layer = keras.layers.Pipeline([keras.layers.RandomRotation(0.1, fill_mode="constant", fill_value=255, seed=1)])
    data = training_data(*folders, **OPTIONS, augment=layer)
    images, labels = next(iter(data))
    assert images.shape == (BATCH, *CROP, 3) and labels.dtype == tf.uint8
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 255} and not equal([(images, labels)], six_batches[:1])


KERAS_CV = {
    "RandomFlip": dict(mode="horizontal_and_vertical"),
    "RandomRotation": dict(factor=0.1, segmentation_classes=255),
    "RandomColorJitter": dict(
        value_range=(0, 255), brightness_factor=0.2, contrast_factor=0.2, saturation_factor=0.2, hue_factor=0.1
    ),
    "GridMask": dict(ratio_factor=0.3),
    "ChannelShuffle": dict(),
}


@pytest.mark.parametrize("name", KERAS_CV)
def test_a_keras_cv_layer_can_be_added(folders, six_batches, name):
    keras_cv = pytest.importorskip("keras_cv", reason="needs the extra: keras-cv")
    layer = getattr(keras_cv.layers, name)(**KERAS_CV[name], seed=1)
    images, labels = batches(folders, 1, augment=layer)[0]
    assert not np.array_equal(images, six_batches[0][0]) and set(np.unique(labels)) <= {0, 1, 2, 3, 255}
    if name in ("RandomColorJitter", "ChannelShuffle"):
        assert np.array_equal(labels, six_batches[0][1])


def test_any_callable_can_be_added_but_must_not_blend_labels(folders, six_batches):
    def darker(inputs):
        return {**inputs, "images": inputs["images"] / 2}

    plain, (dark,) = six_batches[0], batches(folders, 1, augment=darker)
    assert np.array_equal(dark[0], plain[0] / 2) and np.array_equal(dark[1], plain[1])

    def blending(inputs):
        return {**inputs, "segmentation_masks": inputs["segmentation_masks"] / 2}

    with pytest.raises(tf.errors.InvalidArgumentError, match="whole numbers"):
        batches(folders, 1, augment=blending)


@pytest.mark.parametrize("name", ["images/0.png", "images/1.jpg", "images/2.tif", "labels/3.png"])
def test_a_corrupt_file_ends_training_with_its_name(folders, name):
    path = folders[0].parent / name
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} is damaged"):
        batches(folders, 3)


def test_corrupt_files_are_skipped_and_counted_if_asked(folders, capfd):
    bad = [folders[0] / "0.png", folders[1] / "3.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    data = training_data(*folders, **OPTIONS, skip_corrupt=True)
    five = [tuple(x.numpy() for x in pair) for pair in itertools.islice(data, 5)]
    assert set(data.skipped) == {str(path) for path in bad} and len(data.skipped) >= 8
    assert f"skipped {bad[0]}" in capfd.readouterr().out
    assert equal(five[2:], batches(folders, 3, skip_corrupt=True, start_step=2))
    assert training_data(*folders, **OPTIONS).skipped is None


@pytest.mark.parametrize("depth, length", [(0, None), (77, None), (8, 30), (8, 10), (8, 0)])
def test_a_label_with_a_damaged_header_is_a_corrupt_file(folders, depth, length):
    path = folders[1] / "3.png"  # has a palette
    data = bytearray(path.read_bytes())
    data[24] = depth
    path.write_bytes(data[:length])
    data = training_data(*folders, **{**OPTIONS, "batch": COUNT}, skip_corrupt=True)
    next(iter(data))
    assert str(path) in data.skipped


def test_nothing_but_corrupt_files_is_an_error(folders):
    for path in folders[0].iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(tf.errors.InvalidArgumentError, match="None of the files"):
        batches(folders, 1, skip_corrupt=True)


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda label: Image.fromarray(label.astype(np.uint16)), "labels/0.png has 16 bits"),
        (lambda label: Image.fromarray(label).convert("RGB"), "labels/0.png has colours or alpha"),
        (lambda label: Image.fromarray(label[:40]), "is 64x48 .width x height., but its label .*labels/0.png is 64x40"),
    ],
)
def test_a_label_of_another_kind_is_an_error_even_when_skipping(folders, draw, message):
    draw(label_of(0)).save(folders[1] / "0.png")
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        batches(folders, 3, skip_corrupt=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(evaluation_data(*folders, reduce_zero_label=False))


def test_a_missing_file_is_named(folders):
    with pytest.raises(tf.errors.NotFoundError, match="none.png"):
        list(evaluation_data(["none.png"], [folders[1] / "0.png"], reduce_zero_label=False))


@pytest.mark.parametrize("bits, transparent", [(1, False), (2, False), (4, False), (8, False), (8, True)])
def test_palette_labels_give_indices_at_every_depth(tmp_path, bits, transparent):
    values = np.random.default_rng(bits).integers(0, 2**bits, (9, 13), dtype=np.uint8)
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 3 * 2**bits).tolist())
    image.save(tmp_path / "x.png", bits=bits, **(dict(transparency=1) if transparent else {}))
    assert np.array_equal(decode_label(tf.io.read_file(str(tmp_path / "x.png"))), values)


def test_one_bit_labels_are_0_and_1(tmp_path):
    values = np.random.default_rng(0).integers(0, 2, (9, 13)).astype(bool)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.array_equal(decode_label(tf.io.read_file(str(tmp_path / "x.png"))), values)


def test_turned_photos_are_upright(folders):
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (folders[0] / "0.png", folders[0] / "1.jpg"):
        Image.fromarray(picture(64, 48, 3)).save(path, exif=exif)
    images = [image.numpy() for image, _ in evaluation_data(*folders, reduce_zero_label=False)]
    for number, name in enumerate(("0.png", "1.jpg")):
        assert images[number].shape == (48, 64, 3) and np.array_equal(images[number], read_image(folders[0] / name))


def test_small_pictures_are_padded(folders):
    images, labels = batches(folders, 1, crop=(100, 160), resize_ratio=(1.0, 1.0))[0]
    assert np.all(images[:, 48:] == np.float32(MEAN)) and np.all(labels[:, :, 64:] == 255)


def mmsegmentation_labels(label, reduce_zero_label, label_map):
    """As LoadAnnotations of mmsegmentation 1.2.2 defines it: first the zero rule, then the map of the result's values."""
    label = label.astype(int)
    if reduce_zero_label:
        label = np.where((label == 0) | (label == 255), 255, label - 1)
    mapped = label.copy()
    for old, new in label_map.items():
        mapped[label == old] = new
    return mapped.astype(np.uint8)


@pytest.mark.parametrize(
    "zero, label_map", [(False, {255: 1}), (True, {0: 2, 2: 0, 255: 1}), (False, {1: 0, 2: 1, 3: 255})]
)
def test_a_label_map_comes_after_the_zero_rule_in_both_pipelines(folders, zero, label_map):
    rule = dict(reduce_zero_label=zero, label_map=label_map)
    for number, (_, label) in enumerate(evaluation_data(*folders, **rule)):
        assert np.array_equal(label, mmsegmentation_labels(label_of(number), zero, label_map))
    whole = dict(resize_ratio=(1.0, 1.0), crop=(50, 64), cat_max_ratio=1, flip=0.0, batch=COUNT)
    ((_, labels),) = batches(folders, 1, **whole, **rule)
    expected = [mmsegmentation_labels(label_of(n), zero, label_map) for n in range(COUNT)]
    assert np.all(labels[:, 48:] == 255)  # padding stays ignored, whatever 255 becomes in the files
    assert all(sum(np.array_equal(label[:48], e) for e in expected) == 1 for label in labels)


def test_own_size_is_the_box_of_each_picture(folders):
    assert equal(batches(folders, 2, resize_base=None), batches(folders, 2, resize_base=(64, 48)))


def test_labels_of_one_class_are_refused_before_training(folders):
    with pytest.raises(ValueError, match="Classes 4..5 of 0..5 occur in no label map. Received: 5 label maps"):
        training_data(*folders, **OPTIONS, num_classes=6)
    assert training_data(*folders, **OPTIONS, num_classes=4)
    for path in folders[1].iterdir():
        Image.fromarray(np.where(np.arange(64) < 9, 255, 0).astype(np.uint8)[None].repeat(48, 0)).save(path)
    with pytest.raises(ValueError, match="Masks of 0 and 255 need `label_map={255: 1}`"):
        training_data(*folders, **OPTIONS)
    assert training_data(*folders, **OPTIONS, label_map={255: 1})
    assert training_data(*folders, **OPTIONS, allow_missing_classes=True)
    with pytest.raises(ValueError, match="batch must be a positive integer. Received: 0"):
        training_data(*folders, **{**OPTIONS, "batch": 0}, label_map={255: 1})
