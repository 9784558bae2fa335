"""The authors' test protocol: pictures padded to the crop, several scales with flips, and the sizes of ADE20K."""

import numpy as np
import pytest
import tensorflow as tf
from support.authors import CROP, FACTORS, PICTURES, drawn
from support.drawn import images, picture, sample

import keras_deeplab as kd
from keras_deeplab.inference.segment import Network, resized_to_box
from keras_deeplab.pictures.resize import fit_in_steps
from keras_deeplab.serving.fixed_size import fixed_protocol

PROTOCOL = kd.Protocol("whole", pad=CROP, factors=FACTORS)


@pytest.fixture(scope="module")
def models(golden):
    class Models(dict):
        def __missing__(self, name):
            model = self[name] = drawn(name, output_stride=16, protocol=PROTOCOL)
            classifier = [golden("authors")[f"segment/{name}/{part}"] for part in ("weights", "biases")]
            model.get_layer("logits-semantic").set_weights(classifier)
            return model

    return Models()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("number", range(len(PICTURES)))
@pytest.mark.parametrize("name", ["mobilenetv2", pytest.param("xception65", marks=pytest.mark.slow)])
def test_label_maps_equal_the_authors(models, name, number, several, golden):
    height, width = PICTURES[number]
    labels = kd.segment(models[name], picture(height, width, number), multi_scale_flip=several)
    expected = golden("authors")[f"segment/{name}/{height}x{width}" + ("/ms" if several else "")]
    assert labels.shape == expected.shape and len(np.unique(expected)) > 1
    assert np.sum(labels != expected) <= 2  # pixels whose two best classes have nearly equal scores


@pytest.mark.parametrize("height, width", [(50, 80), (131, 97), (65, 65), (33, 41)])
def test_a_picture_is_resized_as_the_authors_do(height, width, golden):
    seed = [(50, 80), (131, 97), (65, 65), (33, 41)].index((height, width))
    protocol = kd.Protocol("whole", resize=(65, 65), step=16, pad=(65, 65))
    resized = resized_to_box(protocol, picture(height, width, seed))
    assert [*resized.shape] == golden("authors")[f"resize/{height}x{width}/size"].tolist()
    np.testing.assert_allclose(sample(resized[None]), golden("authors")[f"resize/{height}x{width}"], atol=1e-3)


@pytest.mark.parametrize(
    "size, box, step, expected",
    [
        ((512, 683), (513, 513), 16, (385, 513)),  # 513 / 683 * 512 = 384.6 -> 384 -> 385
        ((683, 512), (513, 513), 8, (513, 385)),
        ((100, 100), (257, 257), 16, (257, 257)),  # smaller pictures grow
        ((20, 2000), (257, 257), 16, (17, 257)),  # 2.57 -> 2 -> 17
        ((1, 2000), (257, 257), 16, (1, 257)),  # never 0
        ((300, 400), (520, 520), 16, (385, 513)),  # the box's long side becomes 513
    ],
)
def test_sides_are_a_multiple_plus_one(size, box, step, expected):
    assert tuple(int(side) for side in fit_in_steps(*size, *box, step)) == expected


def test_a_larger_picture_than_the_crop_is_not_cut(models):
    model, image = models["mobilenetv2"], images(81, 113)
    scores = kd.segment(model, image[0], return_scores=True)[1]
    logits = np.asarray(model(image))[0]
    assert np.abs(scores - logits).max() <= 1e-4 * logits.std()


def test_padding_is_the_mean_pixel_below_and_at_the_right(models):
    model, image = models["mobilenetv2"], picture(50, 80, 0)
    padded = np.full((1, *CROP, 3), 127.5, "float32")
    padded[0, :50, :80] = image
    logits = np.asarray(model(padded))[0, :50, :80]
    scores = kd.segment(model, image, return_scores=True)[1]
    assert np.abs(scores - logits).max() <= 1e-4 * logits.std()


@pytest.mark.parametrize("protocol", [PROTOCOL, kd.Protocol("whole", resize=(65, 65), step=16, pad=(65, 65))])
def test_a_graph_of_one_size_gives_the_same(models, protocol):
    model = type(models["mobilenetv2"]).from_config({**models["mobilenetv2"].get_config(), "protocol": protocol})
    model.set_weights(models["mobilenetv2"].get_weights())
    image = picture(50, 80, 0)
    labels = fixed_protocol(Network(model), 50, 80)(tf.constant(image), False)[0]
    assert np.array_equal(labels, kd.segment(model, image))


def test_sizes_of_the_picture_are_refused(models):
    with pytest.raises(ValueError, match="pads pictures.* Received: multi_scale_flip='picture'"):
        kd.segment(models["mobilenetv2"], images(33, 47)[0], multi_scale_flip="picture")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mode": "slide", "crop": (9, 9), "stride": (9, 9), "pad": (9, 9)}, "`pad` goes with mode 'whole'"),
        ({"mode": "whole", "step": 16}, "`step` must be .* Received: step=16"),
        ({"mode": "whole", "pad": (65, 65), "resize": (65, 65), "step": 0}, "Received: step=0"),
        ({"mode": "whole", "pad": 65}, "`pad` must be two positive whole numbers"),
        ({"mode": "whole", "factors": ()}, "`factors` must be positive numbers"),
        ({"mode": "whole", "factors": (1, -1)}, "`factors` must be positive numbers"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        kd.Protocol.from_dict(fields)
