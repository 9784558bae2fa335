"""A checkpoint has all that a run needs to continue, is never half written, and is refused by a run with other options."""

import os
import signal
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from support.drawn import batches
from support.narrow import drawn

from keras_deeplab import recipes
from keras_deeplab.training import resume

NAME = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
RECORD = {"step": 2, "options": {"--steps": 4, "--crop": (33, 49), "--freeze": ["norms"], "--init": None}}


def compiled_model(**options):
    """A narrow model with drawn weights and frozen norms, compiled by its recipe."""
    model = drawn(NAME, auxiliary_head=True)
    recipes.find(NAME).compile(model, 4, freeze=["norms"], **options)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model with frozen norms after two steps, and its checkpoint."""
    model, path = compiled_model(), tmp_path_factory.mktemp("resume") / "last.keras"
    for images, labels in zip(*batches(2, 2, 33, 49, 19), strict=True):
        model.train_on_batch(images.astype("float32"), labels)
    resume.write(model, path, RECORD)
    return model, path


def test_a_restored_model_has_weights_momentum_and_random_states(trained):
    model, path = trained
    restored = compiled_model()
    resume.restore(restored, path)
    assert len(restored.optimizer.variables) == len(model.trainable_variables) + 1 < len(model.weights)
    for kind in ("variables", "trainable_variables"):
        assert all(map(np.array_equal, *([v.numpy() for v in getattr(m, kind)] for m in (restored, model))))
    assert all(map(np.array_equal, *([v.numpy() for v in m.optimizer.variables] for m in (restored, model))))
    assert any(v.numpy().any() for v in restored.optimizer.velocities)


def test_a_checkpoint_is_a_keras_file(trained):
    loaded, model = keras.saving.load_model(trained[1]), trained[0]
    assert len(loaded.trainable_variables) == len(model.trainable_variables) < len(model.weights)
    for kind in (lambda m: m.weights, lambda m: m.optimizer.variables):
        assert all(map(np.array_equal, *([np.array(v) for v in kind(m)] for m in (loaded, model))))


def test_the_file_without_optimizer_is_smaller_and_loads_without_a_warning(trained, tmp_path, recwarn):
    resume.write(resume.without_optimizer(trained[0]), tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size < 0.7 * trained[1].stat().st_size
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert all(map(np.array_equal, loaded.get_weights(), trained[0].get_weights()))
    assert not [w for w in recwarn if "optimizer" in str(w.message)]


@pytest.mark.parametrize("when", ["while the model is saved", "before it is renamed"])
def test_an_interrupted_write_leaves_the_old_file(trained, tmp_path, monkeypatch, when):
    model, path = trained[0], tmp_path / "last.keras"
    resume.write(model, path, {"step": 1})

    def interrupt(*arguments):
        partial = next(Path(argument) for argument in arguments if ".part" in str(argument))
        partial.write_bytes(b"PK\3\4 half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if when == "before it is renamed":
            patch.setattr(os, "replace", interrupt)
        else:
            patch.setattr(type(model), "save", interrupt)
        resume.write(model, path, {"step": 2})
    assert list(tmp_path.iterdir()) == [path]
    assert resume.read(path) == {"step": 1} and zipfile.ZipFile(path).testzip() is None
    resume.write(model, path, {"step": 3})
    assert resume.read(path) == {"step": 3} and list(tmp_path.iterdir()) == [path]


def test_the_error_names_the_options_that_differ(trained):
    assert resume.steps_made(trained[1], RECORD["options"]) == 2
    assert resume.steps_made(trained[1].with_name("none.keras"), RECORD["options"]) == 0
    other = {"--steps": 5, "--crop": (33, 49), "--freeze": [], "--init": None, "--batch": 2}
    with pytest.raises(ValueError, match="was made with --steps 4, --freeze norms, no --batch. Received: --steps 5,"):
        resume.steps_made(trained[1], other)


def test_a_file_without_a_record_is_refused(trained, tmp_path):
    path = tmp_path / "last.keras"
    for write in (lambda: path.write_bytes(b"nothing"), lambda: trained[0].save(path)):
        write()
        with pytest.raises(ValueError, match="last.keras must be a checkpoint .* without the record training.json"):
            resume.read(path)


def test_the_first_ctrl_c_is_noted_and_the_second_stops():
    before = signal.getsignal(signal.SIGINT)
    with resume.Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
