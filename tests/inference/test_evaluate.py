"""mIoU as the original counts it: pooled over pictures, without ignored pixels and absent classes."""

import json

import numpy as np
import pytest
from drawn import picture
from narrow import build, drawn, tensors
from PIL import Image
from torch_files import released

import keras_deeplab as kd
from keras_deeplab.inference.evaluate import confusion, scores
from recipes import evaluate

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"


def test_an_example_by_hand():
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 3]], np.uint8)
    found = scores(confusion(truth, predicted, 5))
    assert found["IoU"] == [0.5, 0.5, None, None, None]
    assert (found["mIoU"], found["mAcc"], found["aAcc"]) == pytest.approx((50.0, 75.0, 200 / 3))


def test_random_label_maps_against_the_definition():
    random = np.random.default_rng(0)
    for classes in (1, 2, 7, 150):
        truth = random.integers(0, classes, (40, 30)).astype(np.uint8)
        truth[random.random(truth.shape) < 0.2] = 255
        predicted = random.integers(0, classes, (40, 30)).astype(np.uint8)
        found = scores(confusion(truth, predicted, classes))
        counted = truth != 255
        for k in range(classes):
            intersect = np.sum((truth == k) & (predicted == k) & counted)
            union = np.sum(((truth == k) | (predicted == k)) & counted)
            assert found["IoU"][k] == (intersect / union if union else None)
        assert found["mIoU"] == pytest.approx(100 * np.mean([v for v in found["IoU"] if v is not None]))
        assert found["aAcc"] == pytest.approx(100 * np.mean(truth[counted] == predicted[counted]))


def test_only_ignored_pixels_have_no_score():
    found = scores(confusion(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8), 2))
    assert found["IoU"] == [None, None] and np.isnan([found["mIoU"], found["mAcc"], found["aAcc"]]).all()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Pictures, label maps that are the model's own with blocks replaced, and the expected pixel counts."""
    folder = tmp_path_factory.mktemp("evaluate")
    model, counts = drawn(NAME), np.zeros((7, 7), int)
    for kind in ("images", "labels", "from_one"):
        (folder / kind).mkdir()
    for i, size in enumerate([(60, 80), (33, 47)]):
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
    (folder / "narrow.pth").write_bytes(released(tensors(build(NAME, auxiliary_head=True))))
    return folder, scores(counts)


def test_a_folder_is_scored_over_all_its_pixels(here):
    folder, expected = here
    assert 30 < expected["mIoU"] < 95
    model = drawn(NAME)
    assert kd.evaluate(model, folder / "images", folder / "labels") == {"images": 2, **expected}
    found = kd.evaluate(model, folder / "images", folder / "from_one", reduce_zero_label=True, progress=False)
    assert found == {"images": 2, **expected}


def test_the_command_prints_and_writes_the_scores(here, capsys):
    folder, expected = here
    places = {"--images": "images", "--labels": "labels", "--weights": "narrow.pth", "--json": "scores.json"}
    evaluate.main([NAME, *(part for key, name in places.items() for part in (key, str(folder / name)))])
    assert json.loads((folder / "scores.json").read_text()) == {"images": 2, **expected}
    printed = capsys.readouterr().out
    assert f"{expected['mIoU']:.2f}" in printed and "50.28" in printed  # the published one


@pytest.mark.parametrize("label, message", [
    (np.full((60, 80), 9, np.uint8), "Labels are 0..6, and 255 .* has 9"),
    (np.zeros((60, 81), np.uint8), "81x60"),
    (np.zeros((60, 80, 3), np.uint8), "mode RGB"),
])  # fmt: skip
def test_wrong_labels_name_the_file(here, label, message, tmp_path):
    Image.fromarray(label).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=message) as error:
        kd.evaluate(drawn(NAME), [here[0] / "images" / "0.png"], [tmp_path / "0.png"], progress=False)
    assert "0.png" in str(error.value)
