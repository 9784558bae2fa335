"""Training augmentation: the original's random numbers give its crops, and our random numbers have its distribution."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from support.drawn import images, picture

from keras_deeplab.data import transforms
from keras_deeplab.networks.layers import MEAN, STD
from keras_deeplab.pictures.resize import resize_nearest, resize_uint8

BASE, RATIO, FLIP, SHARE = (160, 80), (0.5, 2.0), 0.5, 0.75
CASES = range(10)
SIGNIFICANCE = 0.001  # of each statistical test; the seeds are fixed, so a test always passes or always fails


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def draws_of(u):
    return transforms.draws_of(tf.convert_to_tensor(u), resize_ratio=RATIO, flip=FLIP)


def case(golden, number):
    """Picture, label map, draws, crop and reduce_zero_label of a golden case."""
    arrays = golden("transforms")
    height, width, seed, crop_height, crop_width, zero = arrays["cases"][number].tolist()
    label, draws = arrays[f"map{number}"], draws_of(arrays["u"][number])
    return picture(height, width, seed), label, draws, (crop_height, crop_width), bool(zero)


def step_by_step(image, label, draws, crop, zero):
    if zero:
        label = transforms.reduce_zero_label(label)
    image, label = transforms.random_resize(image, label, draws.ratio, base=BASE)
    image, label = transforms.random_crop(image, label, draws.offsets, crop=crop, cat_max_ratio=SHARE)
    image, label = transforms.random_flip(image, label, draws.flip)
    return transforms.pad(transforms.photometric(image, draws.photometric), label, crop=crop)


def at_once(image, label, draws, crop, zero):
    options = dict(resize_base=BASE, crop=crop, cat_max_ratio=SHARE, reduce_zero=zero)
    return transforms.augment(tf.convert_to_tensor(image), tf.convert_to_tensor(label), draws, **options)


@pytest.mark.parametrize("number", CASES)
def test_the_resize_is_the_originals(golden, number):
    image, label, draws, _, zero = case(golden, number)
    label = transforms.reduce_zero_label(label) if zero else label
    image, label = transforms.random_resize(image, label, draws.ratio, base=BASE[::-1])
    assert [*label.shape, crc(image), crc(label)] == golden("transforms")[f"whole{number}"].tolist()


@pytest.mark.parametrize("number", CASES)
def test_the_crop_is_at_the_originals_place(golden, number):
    image, label, draws, crop, zero = case(golden, number)
    label = transforms.reduce_zero_label(label) if zero else tf.constant(label)
    _, label = transforms.random_resize(image, label, draws.ratio, base=BASE)
    tries = []

    def part(top, left):
        tries.append((int(top), int(left)))
        return label[tries[-1][0] :, tries[-1][1] :][: crop[0], : crop[1]]

    box, _ = transforms.crop_offset(part, label.shape, draws.offsets, crop=crop, cat_max_ratio=SHARE)
    assert [*map(int, box), len(tries)] == golden("transforms")[f"box{number}"].tolist()


@pytest.mark.parametrize("way", [step_by_step, at_once])
@pytest.mark.parametrize("number", CASES)
def test_the_crop_is_the_originals(golden, number, way):
    expected = golden("transforms")
    image, label = (x.numpy() for x in way(*case(golden, number)))
    assert np.array_equal(label, expected[f"label{number}"]) and label.dtype == np.uint8
    original = expected[f"image{number}"]
    height, width = original.shape[:2]
    shown, vector = image[:height, :width], width // 32 * 32  # see test_distortion_is_opencvs_in_8_bits
    assert np.abs(shown - original).max() <= 1 and np.mean((shown != original)[:, :vector]) <= 1e-3
    # Beyond the original's crop there is only padding.
    assert np.all(image[height:] == np.float32(MEAN)) and np.all(image[:, width:] == np.float32(MEAN))


def test_padding_is_zero_after_the_models_normalisation(golden):
    image, _ = at_once(*case(golden, CASES[-1]))
    normalised, padded = (image - np.float32(MEAN)) / np.float32(STD), golden("transforms")["padded"]
    assert np.abs(normalised - padded).max() <= 1.01 / min(STD)
    assert np.array_equal(normalised == 0, padded == 0) and np.all(padded[-1] == 0) and np.all(padded[:, -1] == 0)


@pytest.mark.parametrize("number", CASES)
def test_the_steps_and_all_at_once_agree_value_for_value(golden, number):
    for stepwise, fast in zip(step_by_step(*case(golden, number)), at_once(*case(golden, number)), strict=True):
        assert np.array_equal(stepwise, fast)


@pytest.mark.parametrize("way", [step_by_step, at_once])
def test_eager_and_tf_data_agree_value_for_value(golden, way):
    numbers = (0, 3, 7, 9)
    for number in numbers:
        image, label, _, crop, zero = case(golden, number)
        u = golden("transforms")["u"][number]
        data = tf.data.Dataset.from_tensors((image, label, u))
        data = data.map(lambda image, label, u, c=crop, z=zero: way(image, label, draws_of(u), c, z))
        for from_data, eager in zip(next(iter(data)), way(*case(golden, number)), strict=True):
            assert np.array_equal(from_data, eager)


def test_distortion_is_opencvs_in_8_bits(golden):
    """OpenCV's vector code truncates; its scalar code, used for the last (width mod 32) pixels of a row, rounds.

    Ours truncates everywhere. On processors without FMA one value in 20,000 may differ from the vector code's, by one level.
    """
    for width, largest in ((32, 1), (61, 3)):
        expected, u = golden("transforms")[f"distorted_{width}"], golden("transforms")["distorted_u"]
        noise = images(32, width, len(u))
        draws = [draws_of(np.concatenate([np.zeros(24), row])) for row in u]
        ours = np.stack(
            [transforms.photometric(*pair) for pair in zip(noise, (d.photometric for d in draws), strict=True)]
        )
        difference = np.abs(ours.astype(int) - expected)
        assert difference.max() <= largest
        assert difference[:, :, :32].max() <= 1 and np.mean(difference[:, :, :32] > 0) <= 1e-4


def test_a_part_of_a_resized_picture_equals_that_part_of_the_full_resize():
    generator = np.random.default_rng(5)
    for _ in range(10):
        height, width, new_height, new_width = generator.integers(20, 90, 4).tolist()
        image = images(height, width)[0]
        top, left = int(generator.integers(0, new_height)), int(generator.integers(0, new_width))
        rows, columns = tf.range(top, new_height), tf.range(left, new_width)
        row_taps = transforms.bilinear_taps(height, new_height, rows, horizontal=False)
        column_taps = transforms.bilinear_taps(width, new_width, columns, horizontal=True)
        part = tf.transpose(transforms._image_crop(image, row_taps, column_taps), [1, 2, 0])
        assert np.array_equal(part, resize_uint8(image, new_height, new_width)[top:, left:])


def test_the_category_rule_counts_exactly():
    def refused(values, share):
        _, counts = np.unique(values[values != 255], return_counts=True)
        return len(counts) < 2 or counts.max() / counts.sum() >= share

    generator = np.random.default_rng(6)
    maps = [generator.choice(generator.integers(0, 256, n), size=(5, 7), p=generator.dirichlet(np.ones(n) / 2))
            for n in generator.integers(1, 7, 60)]  # fmt: skip
    for pixels in (18, 19, 20, 24, 25, 39, 40):  # of 40, near the shares that are tested
        for one, other in ((0, 1), (3, 255), (127, 128), (254, 0)):
            maps.append(np.repeat([one, other, 7], [pixels, 40 - pixels, 0]).reshape(5, 8))
            maps.append(np.repeat([one, other, 255], [pixels - 10, 40 - pixels, 10]).reshape(5, 8))
    # Each bit is set in most pixels, but no class is large.
    maps.append(np.repeat([127, 191, 223, 255], 10).reshape(5, 8))
    maps.append(np.full((5, 8), 255))
    bound_suffices = set()
    for values in maps:
        for share in (0.3, 0.5, 0.75, 0.95):
            covers = transforms._class_covers_too_much(tf.constant(values, tf.uint8), share)
            assert bool(covers) == refused(values, share)
        bound, labelled = (int(x) for x in transforms._class_size_bound(tf.constant(values, tf.uint8)))
        assert labelled == np.sum(values != 255) and bound >= np.bincount(values[values != 255], minlength=1).max()
        bound_suffices.add(bound < 0.75 * labelled)
    assert bound_suffices == {False, True}  # both ways of the rule are tested


def test_nearest_takes_the_pixel_above_and_to_the_left():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(resize_nearest(label, 6, 8), label.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(resize_nearest(label, 1, 2), label[:1, ::2])


def test_reduce_zero_label():
    reduced = transforms.reduce_zero_label(tf.constant([0, 1, 2, 254, 255], tf.uint8))
    assert reduced.dtype == tf.uint8 and reduced.numpy().tolist() == [255, 0, 1, 253, 255]


# Distributions: 2,000 draws of ours are compared with 2,000 draws of the original.


@pytest.fixture(scope="module")
def drawn_2000():
    seeds = tf.stack([tf.zeros(2000, tf.int64), tf.range(2000, dtype=tf.int64)], 1)

    @tf.function
    def draw_all(seeds):
        return tf.map_fn(
            lambda seed: transforms.draw(seed, resize_ratio=RATIO, flip=FLIP),
            seeds,
            fn_output_signature=transforms.Draws(
                tf.float64,
                tf.float64,
                tf.bool,
                transforms.Photometric(tf.float32, tf.float32, tf.bool, tf.bool, tf.float32, tf.bool, tf.int32),
            ),
        )

    return tf.nest.map_structure(lambda x: x.numpy(), draw_all(seeds))


def same_distribution(ours, originals):
    """The two-sample test of Kolmogorov and Smirnov: whether it accepts that both samples have one distribution."""
    both = np.sort(np.concatenate([ours, originals]))
    shares = [np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (ours, originals)]
    bound = np.sqrt(-np.log(SIGNIFICANCE / 2) / 2 * (1 / len(ours) + 1 / len(originals)))
    return np.abs(shares[0] - shares[1]).max() <= bound


def same_counts(ours, originals):
    """Pearson's chi-squared test of two samples of counts, with Wilson and Hilferty's approximation of the quantile."""
    ours, originals = np.asarray(ours, float), np.asarray(originals, float)
    expected = (ours + originals) * (ours.sum() / (ours.sum() + originals.sum()))
    statistic = (((ours - expected) ** 2 / expected) * (1 + ours.sum() / originals.sum())).sum()
    freedom, z = len(ours) - 1, 3.0902  # quantile of the normal distribution at 1 - SIGNIFICANCE
    return statistic <= freedom * (1 - 2 / (9 * freedom) + z * np.sqrt(2 / (9 * freedom))) ** 3


def test_scales_are_distributed_as_the_originals(golden, drawn_2000):
    assert same_distribution(drawn_2000.ratio, golden("transforms")["ratio"])
    assert drawn_2000.ratio.min() >= 0.5 and drawn_2000.ratio.max() < 2


def test_switches_are_distributed_as_the_originals(golden, drawn_2000):
    draws = drawn_2000.photometric
    on = [draws.brightness != 0, draws.contrast != 1, draws.contrast_last, draws.saturate, draws.turn_hue]
    for ours, theirs in zip([x.sum() for x in on], golden("transforms")["switches"], strict=True):
        assert same_counts([ours, 2000 - ours], [theirs, 2000 - theirs])
    flips, theirs = drawn_2000.flip.sum(), golden("transforms")["flips"]
    assert same_counts([flips, 2000 - flips], [theirs, 2000 - theirs])
    assert not same_counts([flips - 150, 2150 - flips], [theirs, 2000 - theirs])  # the test does notice a difference
    for one in range(5):  # any two switches are independent
        for other in range(one):
            both = np.sum(on[one] & on[other])
            assert abs(both - 500) <= 3.29 * np.sqrt(2000 * 0.25 * 0.75)


def test_strengths_are_distributed_as_the_originals(golden, drawn_2000):
    draws, even = drawn_2000.photometric, (np.arange(2000) + 0.5) / 2000
    assert same_distribution(draws.brightness[draws.brightness != 0], 64 * even - 32)
    assert same_distribution(draws.contrast[draws.contrast != 1], 0.5 + even)
    assert same_distribution(draws.saturation, 0.5 + even)
    ours = np.bincount(draws.hue[draws.turn_hue] + 18, minlength=36)
    assert len(ours) == 36 and same_counts(ours, golden("transforms")["hue"])


def test_boxes_and_refusals_are_distributed_as_the_originals(golden, drawn_2000):
    expected, crop = golden("transforms"), (24, 32)
    label = tf.constant(expected["map0"])

    @tf.function
    def boxes(offsets):
        def place_and_attempts(offsets):
            box, _ = transforms.crop_offset(
                lambda top, left: label[top : top + 24, left : left + 32],
                (90, 160),
                offsets,
                crop=crop,
                cat_max_ratio=SHARE,
            )
            margins = tf.constant([67.0, 129.0], tf.float64)
            same = tf.reduce_all(tf.cast(tf.floor(offsets * margins), tf.int32) == tf.stack(box), axis=1)
            return tf.stack([*box, tf.argmax(same, output_type=tf.int32) + 1])

        return tf.map_fn(place_and_attempts, offsets, fn_output_signature=tf.int32)

    top, left, attempts = boxes(tf.constant(drawn_2000.offsets)).numpy().T
    assert same_distribution(top, expected["offsets"][:, 0]) and same_distribution(left, expected["offsets"][:, 1])
    assert same_counts(np.bincount(attempts, minlength=12)[1:], np.bincount(expected["attempts"], minlength=12)[1:])


def test_equal_seeds_give_equal_numbers_and_different_seeds_different_ones():
    one, same, other = (
        transforms.draw(seed, resize_ratio=RATIO, flip=FLIP) for seed in ([3, 4], tf.constant([3, 4]), [4, 3])
    )
    assert float(one.ratio) == float(same.ratio) != float(other.ratio)
    assert np.array_equal(one.offsets, same.offsets)
