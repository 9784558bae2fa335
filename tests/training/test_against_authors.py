"""Training steps give the losses, weights and running statistics of the authors' own code, in float64."""

import keras
import numpy as np
import pytest
from support.authors import LEAST_CHANGE, TRAINING_CROP, TRAINING_RUNS, drawn, released_names
from support.drawn import batches, evenly_spaced

from keras_deeplab import recipes
from keras_deeplab.networks.backbones.mobilenet_v2_tf import NORM

ROWS = {
    "mobilenetv2": "mobilenetv2_coco_voc_trainaug",
    "mobilenetv2_decoder": "mobilenetv2_ade20k_train",
}


@pytest.fixture
def float64():
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING_RUNS)
def test_training_steps_equal_the_authors(name, golden, float64):
    steps, rate, decay = TRAINING_RUNS[name]
    model = drawn(name, output_stride=16, dropout=0.0, dtype="float64")
    recipe = recipes.find(ROWS[name])
    assert (recipe.momentum, recipe.weight_decay, recipe.end_learning_rate) == (0.9, 4e-5, 0.0)
    recipe.replace(weight_decay=decay).compile(model, steps, rate)
    expected = {part: golden("authors_training")[f"{name}/{part}"] for part in ("losses", "few", "change", "decayed")}
    losses = []
    for images, labels in zip(*batches(steps, 4, *TRAINING_CROP, model.num_classes), strict=True):
        model.reset_metrics()
        losses.append(model.train_on_batch(images, labels, return_dict=True)["loss"])
    after = dict(sorted(released_names(model).items()))
    values = {key: evenly_spaced(variable) for key, variable in after.items()}
    counts = [len(value) for value in values.values()]
    change = np.repeat(np.maximum(expected["change"], LEAST_CHANGE), counts)
    differences = np.abs(np.concatenate(list(values.values())) - expected["few"]) / change
    in_float32 = np.repeat([key.endswith("moving_variance") for key in values], counts)  # on the authors' side
    largest = {"losses": np.abs(losses - expected["losses"]).max(), "weights": differences[~in_float32].max()}
    # The authors' side is in float32 there: it rounds the momentum, which scales the change, and the sum of every step.
    momentum = np.float32(NORM["momentum"])
    of_momentum = np.abs((1.0 - float(momentum)) / (1.0 - NORM["momentum"]) - 1.0) * change
    of_sums = steps * np.spacing(np.abs(expected["few"]).astype("float32"))
    largest["moving variances"] = (differences * change / (of_momentum + of_sums))[in_float32].max()
    print(name, {part: f"{value:.1e}" for part, value in largest.items()})
    assert largest["losses"] <= 1e-9 and largest["weights"] <= 1e-6
    assert largest["moving variances"] <= 1.0


def test_weight_decay_counts_what_the_authors_regularize(golden):
    model = drawn("mobilenetv2")
    recipes.find(ROWS["mobilenetv2"]).compile(model)
    model.optimizer.build(model.trainable_variables)
    decays = dict(zip((v.path for v in model.trainable_variables), model.optimizer._decays, strict=True))
    decayed = {name.rpartition("/")[0] for name, v in released_names(model).items() if decays.get(v.path)}
    assert decayed == {name.removesuffix("/weights") for name in golden("authors_training")["mobilenetv2/decayed"]}
