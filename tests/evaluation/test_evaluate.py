"""mIoU is the original's: over the pixels of all pictures, without ignored ones; evaluations can be stopped and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support import SUPPORT
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.data.pairs import FilePairs
from keras_deeplab.evaluation.evaluate import confusion, scores
from keras_deeplab.evaluation.metrics import MeanIoU
from keras_deeplab.inference import predictions
from keras_deeplab.inference.predictions import prefetch_map

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"
ELSEWHERE = SUPPORT / "evaluate_elsewhere.py"


def test_an_example_by_hand():
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 3]], np.uint8)
    result = scores(confusion(truth, predicted, 5))
    assert result["IoU"] == [0.5, 0.5, None, None, None] and result["Acc"] == [0.5, 1.0, None, None, None]
    assert [(values["class"], values["IoU"], values["Acc"]) for values in result["per_class"]] == [
        ("0", 50.0, 50.0), ("1", 50.0, 100.0), ("2", None, None), ("3", None, None), ("4", None, None)
    ]  # fmt: skip
    assert result["Dice"] == pytest.approx([2 / 3, 2 / 3, None, None, None])
    assert (result["mIoU"], result["mAcc"], result["aAcc"]) == pytest.approx((50.0, 75.0, 200 / 3))


def test_random_label_maps_against_the_definition():
    random = np.random.default_rng(0)
    for classes in (1, 2, 7, 150):
        truth = random.integers(0, classes, (40, 30)).astype(np.uint8)
        truth[random.random(truth.shape) < 0.2] = 255
        predicted = random.integers(0, classes, (40, 30)).astype(np.uint8)
        result = scores(confusion(truth, predicted, classes))
        counted = truth != 255
        for k in range(classes):
            intersect = np.sum((truth == k) & (predicted == k) & counted)
            union = np.sum(((truth == k) | (predicted == k)) & counted)
            assert result["IoU"][k] == (intersect / union if union else None)
        assert result["mIoU"] == pytest.approx(100 * np.mean([v for v in result["IoU"] if v is not None]))
        assert result["aAcc"] == pytest.approx(100 * np.mean(truth[counted] == predicted[counted]))
        metric = MeanIoU(classes)
        metric.update_state(truth[None], predicted[None])
        assert np.array_equal(metric.counts(), confusion(truth, predicted, classes))


def test_only_ignored_pixels_have_no_score():
    result = scores(confusion(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8), 2))
    assert result["IoU"] == [None, None] and np.isnan([result["mIoU"], result["mAcc"], result["aAcc"]]).all()


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """(model, folder of pictures, folder of label maps, expected pixel counts); labels are predictions with changed blocks."""
    folder = tmp_path_factory.mktemp("evaluate")
    model, counts = drawn(NAME), np.zeros((7, 7), int)
    for kind in ("images", "labels", "from_one"):
        (folder / kind).mkdir()
    for i, size in enumerate([(60, 80), (33, 47), (40, 40)]):
        image = picture(*size, seed=i)
        predicted = kd.segment(model, image)
        truth = predicted.copy()
        truth[:10], truth[10:20, :9] = (predicted[:10] + 1) % 7, 255
        for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
            if t != 255:
                counts[t, p] += 1
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        kd.palette_image(truth, model.palette).save(folder / "labels" / f"{i}.png")
        Image.fromarray(np.where(truth == 255, 0, truth + 1).astype("uint8")).save(folder / "from_one" / f"{i}.png")
    return model, folder / "images", folder / "labels", counts


def test_a_folder_is_scored_over_all_its_pixels(data_set):
    model, images, labels, counts = data_set
    result = kd.evaluate(model, images, labels)
    assert result["confusion"] == counts.tolist() and result["images"] == 3 and 30 < result["mIoU"] < 95
    expected = scores(counts, model.classes)
    assert {name: result[name] for name in expected} == expected
    first = Image.open(labels / "0.png"), kd.segment(model, images / "0.png")
    assert result["pictures"][0] == {"name": "0", "mIoU": scores(confusion(*map(np.asarray, first), 7))["mIoU"]}
    from_one = labels.with_name("from_one")
    assert kd.evaluate(model, images, from_one, reduce_zero_label=True, progress=False) == result


def test_a_stopped_evaluation_continues_where_it_stopped(data_set, tmp_path, monkeypatch):
    model, images, labels, _ = data_set
    expected, state, calls = kd.evaluate(model, images, labels, progress=False), tmp_path / "state", []

    def stop(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return kd.segment(*args, **options)

    monkeypatch.setattr(predictions, "segment", stop)
    with pytest.raises(KeyboardInterrupt):
        kd.evaluate(model, images, labels, resume=state, progress=False)
    assert len(json.loads(state.read_text())["pictures"]) == 2
    assert kd.evaluate(model, images, labels, resume=state, progress=False) == expected and len(calls) == 4
    assert kd.evaluate(model, images, labels, resume=state, progress=False) == expected and len(calls) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_resume_file_of_another_evaluation_is_refused(data_set, tmp_path):
    model, images, labels, _ = data_set
    state, options = tmp_path / "state", {"progress": False, "resume": tmp_path / "state"}
    kd.evaluate(model, images, labels, **options)
    other = drawn(NAME)
    other.get_layer("decode_head-conv_seg").bias.assign(np.arange(7.0))
    files = [sorted(folder.iterdir()) for folder in (images, labels)]
    for what, change in {
        "protocol": lambda: kd.evaluate(model, images, labels, resize=(64, 64), **options),
        "data": lambda: kd.evaluate(model, files[0][:2], files[1][:2], **options),
        "model": lambda: kd.evaluate(other, images, labels, **options),
        "model and protocol": lambda: kd.evaluate(other, images, labels, multi_scale_flip=True, **options),
    }.items():
        with pytest.raises(ValueError, match=f"holds the evaluation of another {what}. Name another file"):
            change()
    state.write_text(state.read_text()[:-9])
    with pytest.raises(ValueError, match="is not the file of an unfinished evaluation, .* Name another file"):
        kd.evaluate(model, images, labels, **options)
    with pytest.raises(FileNotFoundError):
        kd.evaluate(model, images, labels, resume=tmp_path / "none" / "state", progress=False)


def test_items_are_prefetched_in_order_and_errors_come_through():
    started = []

    def slow(i):
        time.sleep(0.02 * (3 - i % 3))
        started.append(i)
        return 1 // (i - 8)

    results = prefetch_map(slow, range(12), 3)
    assert [next(results) for _ in range(3)] == [1 // (i - 8) for i in range(3)] and max(started) < 10
    with pytest.raises(ZeroDivisionError):  # item 8
        list(results)


@pytest.mark.parametrize("label, message", [
    (np.full((60, 80), 9, np.uint8), "Labels must be 0..6, or 255 .* Received: .*0.png with 9"),
    (np.zeros((60, 81), np.uint8), "of 81x60, .* of 80x60"),
    (np.zeros((60, 80, 3), np.uint8), "0.png has colours or alpha"),
    (np.zeros((60, 80), np.uint16), "0.png has 16 bits"),
])  # fmt: skip
def test_wrong_labels_name_the_file(data_set, label, message, tmp_path):
    Image.fromarray(label).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=message) as error:
        kd.evaluate(data_set[0], [data_set[1] / "0.png"], [tmp_path / "0.png"], progress=False)
    assert "0.png" in str(error.value)


def test_damaged_files_and_wrong_options_are_named(data_set, tmp_path):
    model, images, labels, _ = data_set
    (tmp_path / "0.png").write_bytes((images / "0.png").read_bytes()[:900])
    with pytest.raises(ValueError, match="0.png"):
        kd.evaluate(model, [tmp_path / "0.png"], [labels / "0.png"], progress=False)
    (tmp_path / "cut.png").write_bytes((labels / "0.png").read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut.png is damaged"):
        kd.evaluate(model, [images / "0.png"], [tmp_path / "cut.png"], progress=False)
    with pytest.raises(ValueError, match=r"devices must be a list .* Received: \[\]"):
        kd.evaluate(model, images, labels, devices=[], progress=False)
    prepared = FilePairs([images / "0.png"], [labels / "0.png"])
    prepared.train_ids = True
    with pytest.raises(ValueError, match="Prepared labels count from 0 .* Leave it out"):
        kd.evaluate(model, prepared, reduce_zero_label=True, progress=False)


@pytest.mark.slow
def test_two_devices_share_the_pictures_and_give_the_same_counts(data_set):
    model, images, labels, _ = data_set
    command = [sys.executable, ELSEWHERE, "devices", images, labels]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(printed.splitlines()[-1])
    assert result["confusion"] == kd.evaluate(model, images, labels, progress=False)["confusion"]
    assert result["devices"] == ["CPU:0", "CPU:1"] and [p["name"] for p in result["pictures"]] == list("012")


@pytest.mark.slow
def test_500_pictures_give_the_same_scores_after_a_kill_halfway(tmp_path):
    random, state = np.random.default_rng(0), tmp_path / "state"
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(500):
        Image.fromarray(picture(40, 40, seed=i)).save(tmp_path / "images" / f"{i:03}.png")
        label = random.integers(0, 7, (5, 5), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(label).save(tmp_path / "labels" / f"{i:03}.png")
    command = [sys.executable, ELSEWHERE, "resume", tmp_path / "images", tmp_path / "labels", state]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(json.loads(state.read_text())["pictures"]) < 200 if state.exists() else True:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(json.loads(state.read_text())["pictures"])
    assert 200 <= done < 450
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    os.remove(state)
    uninterrupted = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(printed.splitlines()[-1]) == json.loads(uninterrupted.splitlines()[-1])
