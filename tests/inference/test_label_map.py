"""Label maps computed tile by tile equal those of all scores at once, in ties and for scores that are not finite too."""

import numpy as np
import pytest
import tensorflow as tf

from keras_deeplab.inference import label_map
from keras_deeplab.inference.label_map import labels_at_once, merge
from keras_deeplab.inference.segment import placement, resized_matrix, window_starts
from keras_deeplab.networks.fast.convolution import Purpose
from keras_deeplab.networks.layers import interpolation_matrix


def drawn(height, width, classes):
    """Scores of which many are equal, or nearly equal, to those of another class: the label depends on their last bit."""
    rng = np.random.default_rng(classes)
    scores = rng.standard_normal((height, width, classes)).astype("float32").round(1)
    others = scores[..., rng.permutation(classes)]
    choice = rng.integers(0, 4, scores.shape)
    nearly = np.nextafter(others, np.where(choice == 2, np.float32(9), np.float32(-9)))
    return np.select([choice == 0, choice == 1], [scores, others], nearly)


def slid(coarse, window, extent, size):
    starts = window_starts(extent, window, window * 2 // 3)
    return resized_matrix(placement(coarse, window, starts, extent, False), size, False)


VIEWS = {  # name: (rows, columns) of coarse scores (h, w); the picture's size is no multiple of theirs
    "whole": lambda h, w: (interpolation_matrix(h, 4 * h - 1, False), interpolation_matrix(w, 5 * w + 2, False)),
    "smaller": lambda h, w: (interpolation_matrix(h, h // 2, False), interpolation_matrix(w, w // 3 + 1, False)),
    "aligned, mirrored": lambda h, w: (interpolation_matrix(h, 3 * h, True), interpolation_matrix(w, 77, True)[::-1]),
    "slide": lambda h, w: (slid(h // 3, 40, 90, 101), slid(w // 3, 50, 116, 131)),
}


def assert_equal_in_tiles(scores, rows, columns):
    """The label map, which is the same by every way.

    With AVX2 alone, the order of the sums in a product depends on its size: there the two best scores may change places if
    they are equal but for rounding.
    """
    view = tuple(map(tf.constant, (scores, rows, columns)))
    expected = labels_at_once(*view).numpy()
    for graph_is_for in (Purpose.INFERENCE, Purpose.ANY_PROCESSOR):
        in_graph = tf.function(lambda *view, way=graph_is_for: merge([view], False, graph_is_for=way)[0])
        labels = in_graph(*view).numpy()
        y, x = np.nonzero(labels != expected)
        assert len(y) <= 1e-3 * labels.size * label_map.processor.has_avx2_alone(), graph_is_for
        of_pixels = label_map.band_scores(*view).numpy()[y, x]
        best, chosen = of_pixels.max(-1), of_pixels[np.arange(len(y)), labels[y, x]]
        np.testing.assert_allclose(chosen, best, rtol=1e-6)
    return expected


@pytest.fixture(autouse=True)
def on_a_processor(monkeypatch):
    monkeypatch.setattr(label_map.processor, "has_gpu", lambda: False)


@pytest.mark.parametrize(
    "name, classes, tile, band",
    [
        ("whole", 19, 10**6, 10**9),
        ("smaller", 2, 700, 10**9),
        ("aligned, mirrored", 7, 700, 4000),
        ("slide", 7, 700, 10**9),
        ("slide", 7, 1, 10**9),
    ],
)
def test_labels_are_the_same_in_every_tile_and_band(name, classes, tile, band, monkeypatch):
    monkeypatch.setattr(label_map, "TILE_PIXELS", tile)
    monkeypatch.setattr(label_map, "BAND_VALUES", band)
    labels = assert_equal_in_tiles(drawn(24, 36, classes), *VIEWS[name](24, 36))
    assert len(np.unique(labels)) == classes


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_are_the_same_if_scores_are_not_finite(value, monkeypatch):
    monkeypatch.setattr(label_map, "TILE_PIXELS", 500)
    scores = drawn(9, 14, 5)
    finite = assert_equal_in_tiles(scores, *VIEWS["whole"](9, 14))
    scores[4, 5, 2] = value
    one = assert_equal_in_tiles(scores, *VIEWS["whole"](9, 14))
    assert not np.array_equal(one, finite)
    scores[:] = value
    assert np.all(assert_equal_in_tiles(scores, *VIEWS["whole"](9, 14)) == 0)


def test_scores_of_one_view_of_several_classes_go_by_tiles(monkeypatch):
    taken = []
    monkeypatch.setattr(label_map, "labels_by_tiles", lambda *a: taken.append(a) or labels_at_once(*a[:3]))
    view = tuple(map(tf.constant, (drawn(9, 14, 5), *VIEWS["whole"](9, 14))))
    merge([view], False)
    assert len(taken) == 1
    merge([view], True), merge([view] * 2, False), merge([(view[0][..., :1], *view[1:])], False, 0.5)
    monkeypatch.setattr(label_map.processor, "has_gpu", lambda: True)
    merge([view], False)
    assert len(taken) == 1
