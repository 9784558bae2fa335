"""What a run shows: the loss of each step, the remaining time of the whole run, the files of a bad batch, and curves."""

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

NO_AUGMENTATION = dict(resize_base=(16, 16), resize_ratio=(1.0, 1.0), crop=(16, 16), cat_max_ratio=1.0, flip=0.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Seven pictures; all pixels of a label map have the picture's number as their label."""
    folder = tmp_path_factory.mktemp("progress")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
        for i in range(7):
            Image.new("L", (16, 16), i).save(folder / kind / f"{i}.png")
    return find_pairs(folder / "images", folder / "labels")


PER_CLASS = [{"class": "a ", "IoU": 50.0}, {"class": "b", "IoU": None}, {"class": "c", "IoU": 25.0}]


def run_of(pairs, folder, steps_done=0, steps=10):
    optimizer = SimpleNamespace(_learning_rate=PolynomialDecay(0.01, steps))
    model = SimpleNamespace(num_classes=3, optimizer=optimizer, weights=[tf.Variable([1.0])])
    return progress.Run(model, folder, pairs, batch=3, seed=5, steps_done=steps_done, steps=steps, options={})


def test_the_files_of_a_step_are_those_of_the_pipelines_batch(pairs):
    batches = pipeline.training_data(pairs, batch=3, seed=5, reduce_zero_label=False, **NO_AUGMENTATION)
    for step, (_, labels) in enumerate(batches.take(6)):  # goes beyond the end of two epochs
        assert pipeline.files_of_step(7, 3, 5, step) == labels[:, 0, 0].numpy().tolist()


def test_listeners_get_the_loss_of_the_step_and_its_number_in_the_run(pairs):
    calls, losses, run = [], [3.0, 1.0, math.inf], run_of(pairs, None, steps_done=40)
    heads = []

    def listener(step, loss, seconds):
        calls.append((step, loss, seconds >= 0))
        heads.append(run.head_losses)

    callback = progress.Steps(run, [listener])
    callback.on_train_begin()
    for i in range(3):
        mean = np.float32(np.mean(losses[: i + 1]))
        callback.on_train_batch_end(i, {"loss": mean, "logits_loss": 2.0 + i, "mIoU": 0.5})
    assert calls == [(41, 3.0, True), (42, 1.0, True), (43, math.inf, True)]
    assert heads == [{"logits": 2.0}, {"logits": 4.0}, {"logits": 6.0}]  # whose means are 2, 3 and 4


LIMIT = "at most 153.8, 100 times that of guessing all classes equally"  # guessing has the loss 1.4 * ln(3)


@pytest.mark.parametrize("loss, rule, received", [
    (math.nan, "finite", "nan"),
    (-math.inf, "finite", "-inf"),
    (155.0, LIMIT, "155"),
])  # fmt: skip
def test_the_error_of_a_bad_loss_names_step_files_and_remedies(pairs, tmp_path, loss, rule, received):
    watch = progress.LossWatch(run_of(pairs, tmp_path))
    watch(1, 153.0, 0.1)
    names = ", ".join(str(pairs.images[i]) for i in pipeline.files_of_step(7, 3, 5, 3))
    with pytest.raises(ValueError) as error:
        watch(4, loss, 0.1)
    assert str(error.value).startswith(f"The loss must be {rule}. Received: {received} at step 4, on {names}. ")
    assert "No checkpoint was saved yet." in str(error.value)
    assert "lower --learning-rate" in str(error.value)


def test_weights_that_are_not_finite_are_never_saved(pairs, tmp_path):
    run = run_of(pairs, tmp_path)
    watch = progress.LossWatch(run)
    watch.check_weights(2)
    run.model.weights[0].assign([math.nan])
    with pytest.raises(ValueError, match="All weights must be finite. Received: infinite values or NaN at step 2, on "):
        watch.check_weights(2)


def test_the_remaining_time_is_that_of_the_whole_run(pairs, tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 1000, 40))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = progress.Progress(run_of(pairs, tmp_path, steps_done=4))
    for step in (5, 6, 7):  # one every 40 s; the step itself takes 2 s of them
        bar(step, 0.5, 2.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 5/10 [==========          ] loss 0.5000 rate 5.93e-03")
    assert lines[2].startswith("step 7/10 [==============      ]") and "1.5 img/s ETA 0:02:00" in lines[2]


def test_without_tensorboard_the_error_names_the_package(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        curves.Curves(run_of(pairs, tmp_path))


def test_what_a_killed_run_wrote_after_its_checkpoint_is_forgotten(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for step in range(6):
            writer.write(tf.compat.v1.Event(step=step).SerializeToString())
    path.write_bytes(path.read_bytes()[:-3])  # the last record is incomplete, as after a kill
    curves.remove_events_after(tmp_path, 3)
    assert steps_of(tmp_path) == [0, 1, 2, 3]


def steps_of(folder):
    data = tf.data.TFRecordDataset(sorted(map(str, folder.glob("events*"))))
    return [tf.compat.v1.Event.FromString(record).step for record in data.as_numpy_iterator()]


def test_the_curves_of_a_continued_run_have_no_gap_and_no_repetition(pairs, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps_done, last_step in ((0, 6), (4, 10)):  # killed after step 6, continued from the checkpoint of step 4
        writer = curves.Curves(run_of(pairs, tmp_path, steps_done))
        for step in range(steps_done + 1, last_step + 1):
            writer(step, float(step), 0.5)
            if step % 5 == 0:
                writer.scores(step, {"mIoU": 50.0, "per_class": PER_CLASS})
                writer.picture(step, "picture", np.zeros((1400, 60, 3), np.uint8))
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()

    def points(tag):
        return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]

    assert points("loss") == [(step, float(step)) for step in range(1, 11)]
    assert points("images per second")[0] == (1, 6.0) and points("IoU/c") == [(5, 25.0), (10, 25.0)]
    assert {"learning rate", "mIoU", "IoU/a", "picture"} <= set(events.Tags()["tensors"])
    assert "IoU/b" not in events.Tags()["tensors"]
    width, height = tf.make_ndarray(events.Tensors("picture")[0].tensor_proto)[:2]
    assert (width, height) == (b"30", b"700")
