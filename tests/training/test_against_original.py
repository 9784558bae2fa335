"""Training steps give the losses, weights and running statistics of the originals, whose golden values are in float64."""

import numpy as np
import pytest
from support.drawn import TORCHVISION_RUNS, TRAINING_RUNS, batches, evenly_spaced
from support.narrow import drawn

from keras_deeplab import recipes
from keras_deeplab.zoo.assign import to_torch


@pytest.fixture
def float64():
    import keras

    policy = keras.config.dtype_policy()  # asked for now: Keras makes it from floatx at the first use
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


# The other rows have their kinds of layers; AdamW and the mining of hard pixels have tests of their own.
SLOW = [name for name in TRAINING_RUNS if "r18" not in name]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TRAINING_RUNS]
)
def test_training_steps_equal_the_originals(name, golden, float64):
    steps, size, rate, min_kept = TRAINING_RUNS[name]
    model = drawn(name, auxiliary_head=True, dropout=0.0, dtype="float64")
    recipe = recipes.find(name)
    if min_kept:
        recipe = recipe.replace(ohem_min_kept=min_kept)
    recipe.compile(model, learning_rate=rate)
    expected = {part: golden("training")[f"{name}/{part}"] for part in ("losses", "few", "change")}
    for (images, labels), losses in zip(
        zip(*batches(steps, 4, *size, model.num_classes), strict=True), expected["losses"], strict=True
    ):
        model.reset_metrics()
        loss = model.train_on_batch(images, labels, return_dict=True)["loss"]
        # In the deep networks a rounding error grows about a thousandfold a step, in the original too.
        assert abs(loss - losses.sum()) <= (1e-9 if "_r18" in name else 1e-8)
    compare_weights(model, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION_RUNS)
def test_training_steps_equal_those_of_torchvisions_script(name, golden, float64):
    steps, size, rate, decay = TORCHVISION_RUNS[name]
    model = drawn(name, auxiliary_head=True, dropout=0.0, dtype="float64")
    recipe = recipes.find(name)
    assert (recipe.learning_rate, recipe.weight_decay) == (rate, decay)
    recipe.compile(model, steps=2 * steps)
    expected = {part: golden("torchvision")[f"train/{name}/{part}"] for part in ("losses", "few", "change")}
    differences = []
    for (images, labels), loss in zip(
        zip(*batches(steps, 4, *size, model.num_classes), strict=True), expected["losses"], strict=True
    ):
        model.reset_metrics()
        differences.append(abs(model.train_on_batch(images, labels, return_dict=True)["loss"] - loss))
    assert differences[0] <= 1e-13 and max(differences) <= 1e-8  # a rounding error grows from step to step
    compare_weights(model, expected)


def compare_weights(model, expected):
    """Compares weights and running statistics with golden ones, as shares of their largest change."""
    after = dict(sorted(to_torch(model).items()))
    values = {key: evenly_spaced(array) for key, array in after.items()}
    change = np.repeat(expected["change"], [len(value) for value in values.values()])
    assert np.max(np.abs(np.concatenate(list(values.values())) - expected["few"]) / change) <= 1e-6
