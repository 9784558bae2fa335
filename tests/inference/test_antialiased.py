"""torchvision's preset: pictures resized as it does by Pillow, and the label maps of its models."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.drawn import TORCHVISION_SEGMENT, images, picture, sample
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.catalog.protocol import UNLIMITED
from keras_deeplab.inference.segment import Network, resized_to_box
from keras_deeplab.pictures.resize import fit_rounded_down, resize_antialiased
from keras_deeplab.serving.fixed_size import fixed_protocol

QUICK_NAME, QUICK_SIDE, (QUICK_SIZE, *_) = TORCHVISION_SEGMENT[0]
SEGMENTS = [
    pytest.param(name, side, seed, size, marks=[pytest.mark.slow] * ((side, size) != (QUICK_SIDE, QUICK_SIZE)))
    for name, side, sizes in TORCHVISION_SEGMENT
    for seed, size in enumerate(sizes)
]


@pytest.fixture(scope="module")
def as_graph():
    scalar = tf.TensorSpec([], tf.int32)
    return tf.function(resize_antialiased, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), scalar, scalar])


@pytest.mark.parametrize(
    "height, width, new_height, new_width",
    [(97, 61, 41, 26), (33, 95, 60, 173), (80, 11, 20, 5), (1, 1, 3, 2), (64, 48, 64, 31), (200, 130, 7, 300)],
)
def test_a_picture_is_resized_as_pillow_does(as_graph, height, width, new_height, new_width):
    image = images(height, width)[0]
    rows_first = Image.fromarray(image).resize((new_width, height), Image.Resampling.BILINEAR)  # as all do before 13
    expected = np.asarray(rows_first.resize((new_width, new_height), Image.Resampling.BILINEAR))
    assert np.array_equal(as_graph(image, new_height, new_width), expected)
    assert np.array_equal(resize_antialiased(tf.constant(image), new_height, new_width), expected)


@pytest.mark.parametrize(
    "size, box, expected",
    [
        ((480, 640), (UNLIMITED, 520), (520, 693)),  # 693.33
        ((640, 427), (UNLIMITED, 520), (779, 520)),  # 779.39
        ((427, 640), (700, 520), (467, 700)),  # 779 is too long; 700 * 520 / 779 = 467.3
        ((520, 3), (UNLIMITED, 520), (90133, 520)),
        ((2, 4000), (1000, 520), (1, 1000)),  # never 0
    ],
)
def test_sides_are_rounded_down(size, box, expected):
    assert tuple(int(side) for side in fit_rounded_down(*size, *box)) == expected


@pytest.fixture(scope="module")
def models(golden):
    """(name, short side) -> the row's narrow network with a classifier that spreads the classes over the first picture."""
    made = {}

    def get(name, side):
        if (name, side) not in made:
            model = drawn(name, protocol=kd.Protocol("whole", resize=(UNLIMITED, side), antialias=True))
            kernel, bias = (golden("torchvision")[f"segment/{name}/{side}/{part}"] for part in ("weight", "bias"))
            model.get_layer("classifier-4").set_weights([kernel.transpose(2, 3, 1, 0), bias])
            made[name, side] = model
        return made[name, side]

    return get


@pytest.mark.parametrize("name, side, seed, size", SEGMENTS)
def test_label_maps_equal_torchvisions(models, name, side, seed, size, golden):
    model, expected = models(name, side), golden("torchvision")
    image, key = picture(*size, seed), f"segment/{name}/{side}/{size[0]}x{size[1]}"
    resized = resized_to_box(model.protocol, image)
    assert [*resized.shape[:2], zlib.crc32(resized.tobytes())] == expected[f"{key}/crc"].tolist()
    labels, scores = kd.segment(model, image, return_scores=True)
    assert np.mean(labels == expected[f"{key}/labels"]) >= 0.9998 and len(np.unique(labels)) > 5
    assert np.abs(sample(scores[None]) - expected[f"{key}/scores"]).max() <= 1e-4 * expected[f"{key}/std"]
    of_resized = np.asarray(model(resized[None]))[0].argmax(-1)
    assert np.mean(of_resized == expected[f"{key}/resized"]) >= 0.9998


@pytest.mark.slow
def test_a_graph_of_one_size_gives_the_same(models):
    model = models(QUICK_NAME, QUICK_SIDE)
    image = picture(97, 61, 0)
    labels = fixed_protocol(Network(model), 97, 61)(tf.constant(image), False)[0]
    assert np.array_equal(labels, kd.segment(model, image))


@pytest.mark.slow
def test_several_sizes_are_those_of_the_box(models):
    model = models(QUICK_NAME, QUICK_SIDE)
    image, total = picture(97, 61, 0), 0
    for factor in model.protocol.factors:
        resized = resized_to_box(kd.Protocol("whole", resize=(UNLIMITED, int(130 * factor)), antialias=True), image)
        for flip in (False, True):
            view = resized[:, ::-1] if flip else resized
            scores = tf.image.resize(model(np.ascontiguousarray(view[None])), image.shape[:2])
            total = total + tf.nn.softmax(scores[0, :, ::-1] if flip else scores[0]) / 12
    assert np.mean(kd.segment(model, image, multi_scale_flip=True) == np.argmax(total, -1)) >= 0.9998


def test_a_protocol_takes_padding_or_pillows_filter_and_older_files_have_neither():
    with pytest.raises(ValueError, match="`antialias` and `pad` are of different test protocols"):
        kd.Protocol("whole", pad=(65, 65), antialias=True)
    protocol = kd.Protocol("whole", resize=(520, UNLIMITED), antialias=True)
    assert kd.Protocol.from_dict(protocol.to_dict()) == protocol and protocol.box is None
    assert "antialias" not in kd.Protocol("whole", resize=(64, 32)).to_dict()
