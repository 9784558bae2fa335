"""`keras-deeplab evaluate`: the table, the JSON file, the report, the submission files, and mistakes that it refuses."""

import base64
import importlib
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import miniatures
from support.drawn import picture
from support.narrow import build, drawn, tensors
from support.torch_files import released

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.commands import command_line, evaluate, prepare
from keras_deeplab.evaluation import report, submission

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with images, label maps that differ from the model's own in some blocks, and the model's checkpoint."""
    folder = tmp_path_factory.mktemp("evaluate")
    model = drawn(NAME)
    (folder / "narrow.pth").write_bytes(released(tensors(build(NAME, auxiliary_head=True))))
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i, size in enumerate([(60, 80), (33, 47), (40, 40)]):
        name, image = f"<b>{i}", picture(*size, seed=i)
        truth = kd.segment(model, image)
        truth[: 10 * i] = (truth[: 10 * i] + 1) % 7
        truth[-5:, :9] = 255
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(truth).save(folder / "labels" / f"{name}.png")
    return folder


def arguments(here, **more):
    paths = {"images": here / "images", "labels": here / "labels", "weights": here / "narrow.pth", **more}
    return [NAME, *(str(part) for option, path in paths.items() for part in (f"--{option}", path))]


def test_the_command_prints_and_writes_the_scores(here, tmp_path, capsys):
    evaluate.main(arguments(here, json=tmp_path / "scores.json", report=tmp_path / "to" / "report"))
    expected = kd.evaluate(drawn(NAME), here / "images", here / "labels", progress=False)
    assert json.loads((tmp_path / "scores.json").read_text()) == expected and expected["mIoU"] < 95
    printed = capsys.readouterr().out
    assert re.search(rf"mIoU +{expected['mIoU']:.2f} +50.28", printed)  # the published one
    assert re.search(rf"road +{100 * expected['IoU'][2]:.2f} +{100 * expected['Acc'][2]:.2f}", printed)
    page = (tmp_path / "to" / "report" / "index.html").read_text()
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 1 + 4 * 3 and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?:|<script|@import|url\(", page)
    assert "&lt;b&gt;2" in page and "<b>2" not in page
    assert (
        page.index("Worst pictures") < page.index("&lt;b&gt;2") < page.index("Best pictures") < page.index("&lt;b&gt;0")
    )
    assert f"<b>{expected['mIoU']:.2f}</b>" in page and "<b>50.28</b>" in page
    assert f"<title>narrow.pth, a {NAME}</title>" in page and f"3 pictures of {here / 'images'}." in page
    assert f"by keras_deeplab {kd.__version__}, with Keras" in page and page.count('class="key"') == 3


def test_the_confusion_picture_shows_each_label_s_shares():
    counts = np.array([[30, 10, 0], [0, 0, 0], [0, 4, 12]])
    drawing = report.confusion(drawn(NAME), np.pad(counts, (0, 4)))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", drawing)[1]))))
    alpha = np.round(255 * np.sqrt([[0.75, 0.25, 0], [0, 0, 0], [0, 0.25, 0.75]]))
    assert np.array_equal(pixels[:3, :3, 3], alpha) and tuple(pixels[0, 0, :3]) == report.RIGHT
    assert tuple(pixels[0, 1, :3]) == report.WRONG == tuple(pixels[2, 1, :3])
    assert drawing.index("<td>25.0 %</td><td>17.86 %</td>") < drawing.index("<td>25.0 %</td><td>7.14 %</td>")
    assert re.findall(r">(\d+)</text>", drawing) == ["75", "25", "25", "75"]


def test_a_matrix_of_many_classes_has_their_numbers_and_no_shares():
    model = SimpleNamespace(classes=[f"name {i}" for i in range(31)])
    drawing = report.confusion(model, np.eye(31, dtype=int) + np.eye(31, k=1, dtype=int))
    assert re.findall(r">(\d+)</text>", drawing) == ["0", "0", "10", "10", "20", "20", "30", "30"]
    assert "<td>3 name 3</td><td>4 name 4</td>" in drawing and "both by number" in drawing


def test_another_protocol_has_no_published_score():
    row = rows.find("r101_cityscapes", "DeepLabV3Plus")
    protocols = (False, None), ("box", None), ("picture", None)
    assert [evaluate.published(row, *protocol) for protocol in protocols] == [80.97, 82.03, None]
    assert evaluate.published(row, False, (512, 256)) is None
    assert evaluate.published(rows.find("deeplabv3_r101-d8_fp16_512x1024_80k_cityscapes"), "box", None) is None


def test_undefined_scores_are_null_in_json():
    scores = {"mIoU": float("nan"), "IoU": [None, 0.5], "confusion": [[0]]}
    assert json.loads(evaluate.as_json(scores)) == {"mIoU": None, "IoU": [None, 0.5], "confusion": [[0]]}


def test_a_submission_has_the_server_s_ids(tmp_path, monkeypatch, capsys):
    name, ids = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes", [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    model = drawn(name)
    monkeypatch.setattr(command_line, "load", lambda *_, **__: model)
    for city in ("berlin", "bonn"):
        (tmp_path / "test" / city).mkdir(parents=True)
        Image.fromarray(picture(40, 60, seed=len(city))).save(tmp_path / "test" / city / f"{city}_000000.png")
    to = tmp_path / "results"
    evaluate.main([name, "--images", str(tmp_path / "test"), "--submission", str(to), "--resize", "128", "64"])
    for city in ("berlin", "bonn"):
        with Image.open(to / f"{city}_000000.png") as image:
            written, mode = np.asarray(image), image.mode
        labels = kd.segment(model, tmp_path / "test" / city / f"{city}_000000.png", resize=(128, 64))
        assert mode == "L" and np.array_equal(written, np.array(ids, np.uint8)[labels])
    assert f"2 label maps in {to}, for http" in capsys.readouterr().out
    assert submission.label_ids(rows.find("deeplabv3_r50_ade20k")).tolist() == list(range(1, 151))


def test_a_submission_needs_a_server_pictures_and_the_row_s_classes(here, tmp_path):
    with pytest.raises(ValueError, match="is for rows of cityscapes and ade20k. Received: .*, a row of loveda"):
        evaluate.main([NAME, "--images", str(here / "images"), "--submission", str(tmp_path)])
    for more in (["--labels", "x"], ["--resume", str(tmp_path / "x")], ["--data", "x"]):
        with pytest.raises(ValueError, match=f"none of the options that score labels. Received: {more[0]}."):
            evaluate.main([NAME, "--images", str(here / "images"), "--submission", str(tmp_path), *more])
    with pytest.raises(ValueError, match="the 19 classes that the server scores. Received: a model with 7 classes."):
        submission.write(drawn(NAME), np.zeros(19, np.uint8), [], tmp_path)
    with pytest.raises(ValueError, match="would be overwritten by its label map"):
        submission.write(drawn(NAME), np.zeros(7, np.uint8), [here / "images" / "<b>0.png"], here / "images")
    for city in ("a", "b"):
        (tmp_path / city).mkdir()
        (tmp_path / city / "same.png").touch()
    with pytest.raises(ValueError, match="would both be written to same.png"):
        submission.pictures(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no JPG"):
        submission.pictures(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no folder"):
        submission.pictures(tmp_path / "none")


@pytest.mark.parametrize("more, message", [
    (["--multi-scale-flip", "both"], "invalid choice: 'both'"),
    (["--resize", "0", "5"], "two positive whole numbers"),
    (["--json", "none/x.json"], "There is no folder 'none' to write x.json to."),
    (["--json", "/"], "/ is a folder. Name a file."),
    (["--resume", "none/state"], "There is no folder 'none' to write state to."),
])  # fmt: skip
def test_wrong_options_are_refused_before_the_work(more, message, here, capsys):
    with pytest.raises((SystemExit, OSError)) as error:
        evaluate.main(arguments(here) + more)
    assert message in str(error.value) + capsys.readouterr().err


def test_the_flag_alone_means_the_box(here, tmp_path, monkeypatch):
    flags = []
    evaluating = importlib.import_module("keras_deeplab.evaluation.evaluate")
    monkeypatch.setattr(
        evaluating, "evaluate", lambda *_, **options: flags.append(options["multi_scale_flip"]) or stopped()
    )

    def stopped():
        raise KeyboardInterrupt

    for more in ([], ["--multi-scale-flip"], ["--multi-scale-flip", "picture"]):
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(arguments(here) + more)
    assert flags == [False, "box", "picture"]


@pytest.mark.slow
def test_a_prepared_data_set_is_scored_as_its_folders_are(here, tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra: datasets")
    pytest.importorskip("scipy", reason="needs the extra: datasets")
    miniatures.draw("loveda", tmp_path / "from")
    prepare.main(["loveda", "--from", str(tmp_path / "from"), "--to", str(tmp_path / "to"), "--processes", "1"])
    paths = {"data": tmp_path / "to", "resume": tmp_path / "state", "json": tmp_path / "json", "report": tmp_path}
    options = [
        NAME,
        "--weights",
        here / "narrow.pth",
        *(part for option, path in paths.items() for part in (f"--{option}", path)),
    ]
    evaluate.main([str(option) for option in options])
    pairs = kd.open_prepared(tmp_path / "to", "val")
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i, stem in enumerate(pairs.stems):
        for kind, content in zip(("images", "labels"), pairs.read(i), strict=True):
            (tmp_path / kind / f"{stem}.png").write_bytes(content)
    expected = kd.evaluate(drawn(NAME), tmp_path / "images", tmp_path / "labels", progress=False)
    scores = json.loads((tmp_path / "json").read_text())
    assert scores["images"] == 4 and scores["confusion"] == expected["confusion"]
    assert sorted(p["name"] for p in scores["pictures"]) == sorted(p["name"] for p in expected["pictures"])
    assert len(json.loads((tmp_path / "state").read_text())["pictures"]) == 4
