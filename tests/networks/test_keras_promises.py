"""A model behaves as Keras promises for every model: its policy, its frozen layers, its losses and its labels' shapes."""

import keras
import numpy as np
import pytest
from support.drawn import batches, images
from support.narrow import build, drawn

import keras_deeplab as kd
from keras_deeplab.networks.deeplab import AUXILIARY_WEIGHT

ROW = "deeplabv3plus_r18-d8_512x512_80k_loveda"
DENSE = "deeplabv3_r50-d8_769x769_80k_cityscapes"


def training_batch(classes=7):
    pictures, labels = batches(1, 2, 48, 64, classes)
    return pictures[0].astype("float32"), labels[0].astype("int32")


@pytest.mark.parametrize("name", [ROW, DENSE])
def test_the_network_is_the_same_whatever_the_configured_data_format(name):
    x, before = images(33, 47), keras.config.image_data_format()
    expected = drawn(name)
    keras.config.set_image_data_format("channels_first")
    try:
        model = drawn(name)
        logits = np.asarray(model(x))
        copy = type(model).from_config(model.get_config())
    finally:
        keras.config.set_image_data_format(before)
    assert [w.shape for w in copy.weights] == [w.shape for w in model.weights] == [w.shape for w in expected.weights]
    assert np.array_equal(logits, expected(x))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16", "float64"])
def test_a_models_policy_is_the_one_it_was_built_with(dtype):
    model = build(ROW, dtype=dtype)
    assert model.dtype_policy.name == dtype
    model.compile("sgd", loss=kd.losses.PixelCrossEntropy())
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (dtype == "mixed_float16")  # Keras promises a loss scale for this policy


def test_frozen_layers_stay_frozen_in_files_and_copies(tmp_path):
    model = build(ROW)
    frozen = [layer for layer in model.layers if layer.name.startswith("backbone-layer1")]
    for layer in frozen:
        layer.trainable = False
    model.compile(kd.optimizers.SGD(0.1), loss=kd.losses.PixelCrossEntropy(), run_eagerly=True)
    model.fit(*training_batch(), verbose=0)
    model.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    names = [v.path for v in model.trainable_variables]
    for copy in (loaded, type(model).from_config(model.get_config())):
        assert [v.path for v in copy.trainable_variables] == names
    assert 0 < len(names) < len(build(ROW).trainable_variables)
    assert all(map(np.array_equal, loaded.optimizer.variables, model.optimizer.variables))
    for layer in loaded.layers:
        layer.trainable = True
    assert loaded.get_config()["frozen"] == []


def test_one_loss_counts_the_auxiliary_head_as_the_paper_does():
    model, (x, y) = build(ROW, auxiliary_head=True, dropout=0.0), training_batch()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255))
    result = model.evaluate(x, y, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(result["logits_loss"] + 0.4 * result["auxiliary_loss"], rel=1e-5)
    assert AUXILIARY_WEIGHT == 0.4
    model.compile(loss=kd.losses.PixelCrossEntropy(), loss_weights={"logits": 1.0, "auxiliary": 1.0})
    result = model.evaluate(x, y, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(result["logits_loss"] + result["auxiliary_loss"], rel=1e-5)


@pytest.mark.parametrize("auxiliary_head", [False, True])
def test_label_maps_may_have_an_axis_of_one(auxiliary_head):
    (x, y), results = training_batch(), []
    for labels in (y, y[..., None]):
        model = drawn(ROW, auxiliary_head=auxiliary_head, dropout=0.0)
        accuracy = [kd.metrics.PixelAccuracy(7)]
        model.compile(kd.optimizers.SGD(0.01), kd.losses.PixelCrossEntropy(), metrics=accuracy, run_eagerly=True)
        model.fit(x, labels, batch_size=2, verbose=0)
        results.append(model.evaluate(x, labels, verbose=0, return_dict=True))
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_a_label_that_is_no_class_stops_fit():
    model, (x, y) = build(ROW), training_batch()
    model.compile("sgd", loss=kd.losses.PixelCrossEntropy())
    y[0, 0, 0] = 7
    with pytest.raises(Exception, match="Labels must be 0..6, or 255 for ignored pixels. Received: other labels."):
        model.fit(x, y, verbose=0)


def test_an_empty_batch_and_an_unknown_rank_end_in_one_line():
    import tensorflow as tf

    model, (x, y) = build(ROW), training_batch()
    with pytest.raises(ValueError, match=r"A batch must hold at least one picture. Received: shape \(0, 48, 64, 3\)"):
        model(x[:0])
    data = tf.data.Dataset.from_generator(lambda: iter([(x, y)]), output_types=(tf.float32, tf.int32))
    model.compile("sgd", loss=kd.losses.PixelCrossEntropy())
    with pytest.raises(ValueError, match="Pictures must have a known number of axes"):
        model.fit(data, verbose=0)
    with pytest.raises(ValueError, match="Labels must have a known number of axes"):
        model.fit(data.map(lambda image, label: (tf.ensure_shape(image, [None, None, None, 3]), label)), verbose=0)
