"""Files and argument names of version 0.1 still work (tests/golden/make_saved.py made the files)."""

import keras
import numpy as np
import pytest
from support import GOLDEN
from support.drawn import batches, evenly_spaced, images
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab import recipes
from keras_deeplab.training import resume

SAVED = GOLDEN / "saved"
ROW = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
WIDTHS = dict(base_channels=8, aspp_channels=8)


@pytest.fixture(scope="module")
def expected():
    with np.load(SAVED / "expected.npz") as arrays:
        return dict(arrays)


def test_a_folded_model_of_version_0_1_gives_its_logits(expected):
    model = keras.saving.load_model(SAVED / "folded.keras")
    assert type(model) is kd.DeepLabV3Plus and model.row == ROW and not model.get_config()["norms"]
    logits = np.asarray(model(images(33, 47)))
    assert np.abs(logits - expected["logits"]).max() <= 1e-5 * expected["logits"].std()


def test_a_training_run_of_version_0_1_continues(expected):
    path = SAVED / "last.keras"
    assert resume.steps_made(path, {"ROW": ROW, "--freeze": ["norms"]}) == 2
    model = keras.saving.load_model(path, compile=False)
    recipes.find(ROW).compile(model, 4, freeze=["norms"])
    model.optimizer.build(model.trainable_variables)
    resume.restore(model, path)
    before = np.concatenate([evenly_spaced(weight) for weight in model.get_weights()])
    pictures, labels = batches(4, 2, 33, 49, 19)
    for step in (2, 3):
        model.train_on_batch(pictures[step].astype("float64"), labels[step])
    weights = np.concatenate([evenly_spaced(weight) for weight in model.get_weights()])
    change = np.abs(expected["weights"] - before).max()
    assert change > 0 and np.abs(weights - expected["weights"]).max() <= 1e-9 * change


@pytest.mark.parametrize(
    "old, new",
    [
        (dict(depth=18), dict(backbone="r18")),
        (dict(stem="b"), dict(backbone="r50b")),
        (dict(depth=101, stem="v1c"), dict(backbone="r101")),
        (dict(folded=True), dict(norms=False)),
    ],
)
def test_old_argument_names_work_and_warn(old, new):
    with pytest.warns(FutureWarning, match=f"0.3 removes .* Received: {', '.join(old)}. Write backbone=.* instead"):
        model = kd.DeepLabV3(3, **WIDTHS, **old)
    assert model.get_config() == {**kd.DeepLabV3(3, **WIDTHS, **new).get_config(), "name": model.name}


def test_unknown_arguments_are_refused_by_name():
    with pytest.raises(TypeError, match="DeepLab has no argument deepth"):
        kd.DeepLabV3(3, deepth=18)
    with pytest.raises(ValueError, match="depth must be 18, 50 or 101, stem .* Received: 34, 'v1c'"):
        kd.DeepLabV3(3, depth=34)


def test_files_load_without_a_warning(recwarn):
    keras.saving.load_model(SAVED / "folded.keras")
    assert not [warning for warning in recwarn if warning.category is FutureWarning]


def test_a_model_without_norms_is_what_folding_makes():
    model = drawn(ROW)
    assert kd.fold_norms(model).get_config()["norms"] is False and model.get_config()["norms"] is True
