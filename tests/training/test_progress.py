"""What a run says of itself: each step's own loss, time to go of the whole run, the files of a bad batch, curves."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_deeplab.data import pipeline
from keras_deeplab.data.pairs import find_pairs
from keras_deeplab.training import curves, progress
from keras_deeplab.training.schedules import PolynomialDecay

PLAIN = dict(resize_base=(16, 16), resize_ratio=(1.0, 1.0), crop=(16, 16), cat_max_ratio=1.0, flip=0.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Seven pictures whose label is their number."""
    folder = tmp_path_factory.mktemp("progress")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
        for i in range(7):
            Image.new("L", (16, 16), i).save(folder / kind / f"{i}.png")
    return find_pairs(folder / "images", folder / "labels")


PER_CLASS = [{"class": "a ", "IoU": 50.0}, {"class": "b", "IoU": None}, {"class": "c", "IoU": 25.0}]


def run_of(pairs, to, done=0, steps=10):
    optimizer = SimpleNamespace(_learning_rate=PolynomialDecay(0.01, steps))
    model = SimpleNamespace(num_classes=3, optimizer=optimizer, weights=[tf.Variable([1.0])])
    return progress.Run(model, to, pairs, batch=3, seed=5, done=done, steps=steps, options={})


def test_the_files_of_a_step_are_those_that_the_pipeline_hands_out(pairs):
    batches = pipeline.training_data(pairs, batch=3, seed=5, reduce_zero_label=False, **PLAIN)
    for step, (_, labels) in enumerate(batches.take(6)):  # over two epochs' ends
        assert pipeline.files_of_step(7, 3, 5, step) == labels[:, 0, 0].numpy().tolist()


def test_steps_tell_their_own_loss_and_count_on(pairs):
    told, losses = [], [3.0, 1.0, math.inf]
    callback = progress.Steps(40, [lambda step, loss, seconds: told.append((step, loss, seconds >= 0))])
    callback.on_train_begin()
    for i in range(3):
        callback.on_train_batch_end(i, {"loss": np.float32(np.mean(losses[: i + 1]))})
    assert told == [(41, 3.0, True), (42, 1.0, True), (43, math.inf, True)]


@pytest.mark.parametrize("loss, what", [(math.nan, "is nan"), (-math.inf, "is -inf"), (155.0, "explodes: it is 155")])
def test_a_bad_loss_names_step_files_and_remedies(pairs, tmp_path, loss, what):
    watch = progress.Watch(run_of(pairs, tmp_path))
    watch(1, 153.0, 0.1)  # 1.4 * ln(3) is what guessing costs
    names = ", ".join(str(pairs.images[i]) for i in pipeline.files_of_step(7, 3, 5, 3))
    with pytest.raises(ValueError) as error:
        watch(4, loss, 0.1)
    assert f"The loss {what} at step 4, on {names}. Nothing was saved yet." in str(error.value)
    assert "lower --learning-rate" in str(error.value)


def test_weights_that_are_not_finite_are_never_saved(pairs, tmp_path):
    run = run_of(pairs, tmp_path)
    watch = progress.Watch(run)
    watch.weights(2)
    run.model.weights[0].assign([math.nan])
    with pytest.raises(ValueError, match="Weights are not finite at step 2, on "):
        watch.weights(2)


def test_the_time_to_go_is_that_of_the_whole_run(pairs, tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 1000, 40))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    show = progress.Progress(run_of(pairs, tmp_path, done=4))
    for step in (5, 6, 7):  # 40 s from one to the next, of which 2 s are the step's
        show(step, 0.5, 2.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 5/10 [==========          ] loss 0.5000 rate 5.93e-03")
    assert lines[2].startswith("step 7/10 [==============      ]") and "1.5 img/s ETA 0:02:00" in lines[2]


def test_tensorboards_package_is_asked_for_by_name(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        curves.Curves(run_of(pairs, tmp_path))


def test_what_a_killed_run_wrote_after_its_checkpoint_is_forgotten(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for step in range(6):
            writer.write(tf.compat.v1.Event(step=step).SerializeToString())
    path.write_bytes(path.read_bytes()[:-3])  # the kill cut the last one in two
    curves.forget_after(tmp_path, 3)
    assert steps_of(tmp_path) == [0, 1, 2, 3]


def steps_of(folder):
    data = tf.data.TFRecordDataset(sorted(map(str, folder.glob("events*"))))
    return [tf.compat.v1.Event.FromString(record).step for record in data.as_numpy_iterator()]


def test_curves_go_on_where_they_were(pairs, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, to in ((0, 6), (4, 10)):  # killed after step 6, checkpoint of step 4
        drawn = curves.Curves(run_of(pairs, tmp_path, done))
        for step in range(done + 1, to + 1):
            drawn(step, float(step), 0.5)
            if step % 5 == 0:
                drawn.scores(step, {"mIoU": 50.0, "per_class": PER_CLASS})
                drawn.picture(step, "picture", np.zeros((1400, 60, 3), np.uint8))
    found = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()

    def points(tag):
        return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in found.Tensors(tag)]

    assert points("loss") == [(step, float(step)) for step in range(1, 11)]
    assert points("images per second")[0] == (1, 6.0) and points("IoU/c") == [(5, 25.0), (10, 25.0)]
    assert {"learning rate", "mIoU", "IoU/a", "picture"} <= set(found.Tags()["tensors"])
    assert "IoU/b" not in found.Tags()["tensors"]
    width, height = tf.make_ndarray(found.Tensors("picture")[0].tensor_proto)[:2]
    assert (width, height) == (b"30", b"700")
