"""One picture a step, and a last batch of one: what is trained is what is scored."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.drawn import batches
from support.narrow import drawn

from keras_deeplab.keras_tools import over_replicas
from keras_deeplab.training.losses import PixelCrossEntropy
from keras_deeplab.training.optimizers import SGD

ROW = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
POOLED = "decode_head-image_pool-1-bn"


def compiled(steps_of):
    model = drawn(ROW, dropout=0.0)
    model.compile(SGD(0.01), PixelCrossEntropy())
    images, labels = batches(steps_of, 1, 48, 64, 19)
    return model, images[:, 0].astype("float32"), labels[:, 0]


def test_one_picture_a_step_trains_a_model_that_scores_what_it_was_trained_to():
    model, images, labels = compiled(4)
    before = [np.array(value) for value in model.get_layer(POOLED).get_weights()[2:]]
    history = model.fit(images, labels, batch_size=1, epochs=10, verbose=0).history["loss"]
    after = model.get_layer(POOLED).get_weights()[2:]
    assert all(map(np.array_equal, before, after)) and min(after[1]) > 0.1
    scored = model.evaluate(images, labels, batch_size=1, verbose=0)
    assert history[-1] < 0.8 * history[0] and scored < 2 * history[-1]


def test_a_last_batch_of_one_changes_no_pooled_statistics_and_others_do():
    model, images, labels = compiled(3)
    running = model.get_layer(POOLED).moving_variance
    kept = []
    step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: kept.append(np.array(running)))
    model.fit(images, labels, batch_size=2, shuffle=False, callbacks=[step], verbose=0)
    assert len(kept) == 2 and np.array_equal(kept[0], kept[1])
    other = drawn(ROW).get_layer(POOLED).moving_variance
    assert not np.array_equal(kept[0], other)


@pytest.mark.parametrize("size", [(48, 64), (None, None)])
def test_dynamic_sizes_train_alike(size):
    model, images, labels = compiled(2)
    norm, results = model.get_layer("backbone-layer1-0-bn1"), []
    graph = tf.function(lambda x: norm(x, training=True), input_signature=[tf.TensorSpec([None, *size, 8])])
    x = np.random.default_rng(0).standard_normal((2, 48, 64, 8)).astype("float32")
    results = graph(x), norm(x, training=True)
    np.testing.assert_allclose(*results, atol=1e-5)
    if size == (None, None):
        before = np.array(norm.moving_variance)
        graph(x[:1, :1, :1])
        assert np.array_equal(before, norm.moving_variance)
    assert over_replicas() is None
