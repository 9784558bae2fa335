"""`keras-deeplab train`: a folder in, a model out; a continued run gives the same weights; mistakes are one line."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from support import ROOT
from support.drawn import picture
from support.narrow import build, drawn, tensors
from support.torch_files import released

import keras_deeplab as kd
from keras_deeplab import files, recipes
from keras_deeplab.commands import command_line, export, predict, train
from keras_deeplab.training import devices, progress, resume

NAME = "deeplabv3plus_r18-d8_512x512_80k_potsdam"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FINE_TUNED = ["--freeze", "norms", "--class-weight", "1", "2", "0.5", "--multiplier", "decode_head=10"]
WITH_CURVES = ["--tensorboard"] if find_spec("tensorboard") else []

pytestmark = pytest.mark.filterwarnings("ignore:.*the classifiers start from random weights")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of eight pictures to train on and two to validate on, with three classes, and narrow weights to start from."""
    folder = tmp_path_factory.mktemp("train")
    for kind in ("images", "labels", "val_images", "val_labels"):
        (folder / kind).mkdir()
    for i in range(10):
        image, prefix = picture(60, 80, seed=i), "val_" if i > 7 else ""
        Image.fromarray(image).save(folder / f"{prefix}images" / f"{i}.png")
        Image.fromarray((image[..., 0] // 86).astype("uint8")).save(folder / f"{prefix}labels" / f"{i}.png")
    (folder / "labels" / "classes.txt").write_text("dark\ngrey\nbright\n")
    (folder / "narrow.pth").write_bytes(released(tensors(build(NAME, auxiliary_head=True))))
    return folder


def arguments(here, to, *more):
    paths = {"--images": here / "images", "--labels": here / "labels", "--init": here / "narrow.pth", "--to": to}
    numbers = {"--num-classes": 3, "--steps": 8, "--batch": 2, "--save-every": 2, "--learning-rate": 0.01}
    flat = [str(part) for pair in (paths | numbers).items() for part in pair]
    return [NAME, *flat, "--crop", "33", "49", *FINE_TUNED, *more]


def validated(here, every=3):
    return ["--val-images", f"{here}/val_images", "--val-labels", f"{here}/val_labels", "--validate-every", str(every)]


def equal_weights(*paths):
    models = [keras.saving.load_model(path) for path in paths]
    return all(map(np.array_equal, *(model.get_weights() for model in models)))


@pytest.fixture(scope="module")
def uninterrupted(here):
    train.main(arguments(here, here / "uninterrupted", *validated(here)))
    return keras.saving.load_model(here / "uninterrupted" / "model.keras")


def test_training_learns_the_folder_and_writes_a_model(here, uninterrupted):
    assert resume.read(here / "uninterrupted" / "last.keras")["step"] == 8 and uninterrupted.num_classes == 3
    assert uninterrupted.classes == ("dark", "grey", "bright")
    weights = ["--weights", str(here / "uninterrupted" / "model.keras")]
    predict.main([NAME, str(here / "images" / "0.png"), "--to", str(here / "predicted"), *weights])
    with Image.open(here / "predicted" / "0.png") as labels:
        assert labels.size == (80, 60) and np.array_equal(labels, kd.segment(uninterrupted, here / "images" / "0.png"))
    export.main([NAME, "--to", str(here / "saved_model"), *weights])
    assert (here / "saved_model" / "saved_model.pb").exists()


def test_the_best_model_is_kept_with_its_score(here, uninterrupted, capsys):
    best = here / "uninterrupted" / "best.keras"
    record = resume.read(best)
    scores = kd.evaluate(keras.saving.load_model(best), here / "val_images", here / "val_labels", progress=False)
    assert record["mIoU"] == scores["mIoU"] and record["step"] in (3, 6, 8)
    train.main(arguments(here, best.parent, *validated(here)))  # the run is complete: nothing is trained or lost
    assert resume.read(best) == record
    assert f"best.keras: mIoU {record['mIoU']:.2f} after step {record['step']}" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_weights(here, uninterrupted):
    to = here / "killed"
    line = [sys.executable, "-m", "keras_deeplab", "train", *arguments(here, to, *validated(here), *WITH_CURVES)]
    for file in ("last.keras", "last.part*.keras"):  # after a checkpoint was written, and while the next is written
        process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(to.glob(file)):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(line, env=ENVIRONMENT, check=True, capture_output=True)
    assert equal_weights(to / "model.keras", here / "uninterrupted" / "model.keras")
    assert equal_weights(to / "best.keras", here / "uninterrupted" / "best.keras")
    assert resume.read(to / "best.keras") == resume.read(here / "uninterrupted" / "best.keras")
    if WITH_CURVES:
        assert points(to / "tensorboard", "loss") == list(range(1, 9))
        assert points(to / "tensorboard", "loss/decode head") == points(to / "tensorboard", "loss/auxiliary head")
        assert points(to / "tensorboard", "mIoU") == points(to / "tensorboard", "IoU/grey") == [3, 6, 8]
        assert points(to / "tensorboard", "picture, label, prediction/9") == [3, 6, 8]


def points(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.step for event in EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tensors(tag)]


def test_ctrl_c_saves_the_step_and_frozen_parts_keep_their_weights(here, monkeypatch, capsys):
    checkpoint, last = resume.Checkpoint.__call__, here / "stopped" / "last.keras"

    def press_ctrl_c(self, step, *loss_and_seconds):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        checkpoint(self, step, *loss_and_seconds)

    monkeypatch.setattr(resume.Checkpoint, "__call__", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train.main(arguments(here, last.parent, "--freeze", "norms", "backbone"))
    assert f"Stopped after step 3 of 8 and saved {last}. The same command continues" in capsys.readouterr().out
    assert resume.read(last)["step"] == 3
    model, start = keras.saving.load_model(last, compile=False), drawn(NAME, auxiliary_head=True)
    for layer in model.layers:
        if layer.weights and not layer.name.endswith("conv_seg"):  # these are new
            frozen = layer.name.startswith("backbone-") or isinstance(layer, keras.layers.BatchNormalization)
            pairs = zip(layer.get_weights(), start.get_layer(layer.name).get_weights(), strict=True)
            assert all(np.array_equal(a, b) == frozen for a, b in pairs), layer.name


def test_a_diverging_run_names_step_and_files(here):
    with pytest.raises(ValueError, match=r"The loss .* at step 2, on .*images/\d.png, .*images/\d.png\. ") as error:
        train.main(arguments(here, here / "diverged", "--learning-rate", "1e30"))
    assert "No checkpoint was saved yet" in str(error.value) and "lower --learning-rate" in str(error.value)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--steps", "9"], "was made with --steps 8. Received: --steps 9. Use the same options, or"),
        (["--batch", "4", "--seed", "1"], "was made with --batch 2, --seed 0. Received: --batch 4, --seed 1."),
        (["--crop", "33", "33"], "was made with --crop 33 49. Received: --crop 33 33."),
        (["--freeze", "backbone"], "was made with --freeze norms. Received: --freeze backbone."),
        (["--multiplier", "backbone-=0.1"], "with --multiplier decode_head=10. Received: --multiplier backbone-=0.1."),
        (["--class-weight", "1", "1", "1"], "with --class-weight 1.0 2.0 0.5. Received: --class-weight 1.0 1.0 1.0."),
        (["--images", "val_images", "--labels", "val_labels"], "was made with data of 8 pictures, names "),
        (["--val-images", "images"], "Validation needs both"),
        (["--validate-every", "2"], "--validate-every needs --val-images and --val-labels"),
        (["--init", "r110", "--to", "new"], "No row is named 'r110'"),
        (["--images", "nowhere", "--to", "new"], "nowhere"),
        (["--num-classes", "2", "--class-weight", "1", "2", "--to", "new"], "`keras-deeplab check` lists them"),
        (
            ["--num-classes", "1", "--to", "new"],
            "For one class and its background use --num-classes 2, or --one-output.",
        ),
        (
            ["--num-classes", "4", "--class-weight", "1", "2", "3", "4", "--to", "new"],
            "Class 3 of 0..3 occurs in no label map",
        ),
        (["--one-output", "--to", "new"], "--one-output is for two classes"),
        (["--threshold", "0.5", "--to", "new"], "--threshold is for models with one output"),
        (["--binary", "--reduce-zero-label", "--to", "new"], "--binary is a rule of its own"),
        (["--split-file", "none.txt", "--to", "new"], "There is no split file 'none.txt'"),
        (["--resize", "160", "120"], "was made with --resize own. Received: --resize 160 120."),
        (["--class-weight", "1", "2", "--to", "new"], "--class-weight needs 3 factors, one for each class"),
        (["--multiplier", "head=10", "--to", "new"], "Received: head, with which no path begins."),
        (["--to", "narrow.pth"], "narrow.pth"),
        (["--hosts", "a:1,b:1", "--to", "new"], "--hosts needs the JAX backend"),
        (["--devices", "3", "--to", "new"], "--batch must be a multiple of the number of devices, 3. Received: 2."),
    ],
)
def test_a_mistake_is_refused_with_its_rule(here, uninterrupted, more, message, monkeypatch):
    monkeypatch.chdir(here)
    with pytest.raises(command_line.USER_ERRORS) as error:
        train.main([*arguments(here, here / "uninterrupted"), *more])
    assert message in str(error.value) and not Path("new").exists()


@pytest.mark.parametrize("option", ["--steps", "--batch", "--save-every", "--num-classes", "--validate-every"])
def test_counts_are_positive(here, option, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments(here, here / "none", option, "0"))
    assert f"{option}: must be a positive whole number. Received: '0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [["--multiplier", "backbone-=x"], ["--class-weight", "-1"], ["--learning-rate", "nan"]]
)
def test_factors_are_numbers(here, more, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments(here, here / "none", *more))
    assert f"{more[0]}: must be a number of at least 0. Received: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, message",
    [
        (
            ["--multiplier", "backbone-"],
            "--multiplier: must be PREFIX=X, such as decode_head=10. Received: 'backbone-'",
        ),
        (["--loss", "hinge"], "--loss: must be one of cross-entropy, dice, focal, or NAME=WEIGHT. Received: 'hinge'"),
        (
            ["--resize", "640"],
            "--resize: must be LONG SHORT, two positive whole numbers of pixels, or own alone. Received: '640'",
        ),
        (["--resize", "own", "5"], "or own alone. Received: 'own 5'"),
        (["--resize", "640", "0"], "or own alone. Received: '640 0'"),
        (["--label-map", "255"], "--label-map: must be LABEL=CLASS, two numbers of 0..255. Received: '255'"),
        (["--threshold", "1"], "--threshold: must be a probability above 0 and below 1. Received: '1'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_form(here, more, message, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments(here, here / "none", *more))
    assert message in capsys.readouterr().err


def test_two_runs_into_one_folder_do_not_meet(here, uninterrupted):
    to = here / "uninterrupted"
    before = (to / "last.keras").read_bytes()
    with (
        files.locked(to / "training.lock", "is training into it"),
        pytest.raises(files.InUseError, match=f"Process {os.getpid()} is training into it since"),
    ):
        train.main(arguments(here, to, *validated(here)))
    assert (to / "last.keras").read_bytes() == before
    (to / "training.lock").write_text("left by a killed run")
    train.main(arguments(here, to, *validated(here)))
    assert not (to / "training.lock").exists()


def options_for(here, *more):
    options = train.parse(arguments(here, here / "none", *more))
    options.pairs = command_line.open_data(options, "train", 3)
    return options


@pytest.mark.parametrize(
    "more, resize, crop",
    [
        ([], "own", (64, 96)),  # pictures of 80x60 make a crop of 512x512 mostly padding
        (["--resize", "512", "512"], None, (384, 512)),  # the row's own box
        (["--resize", "160", "120"], (160, 120), (128, 160)),
        (["--resize", "own", "--crop", "33", "49"], "own", [33, 49]),
    ],
)
def test_own_pictures_are_trained_at_their_own_size(here, more, resize, crop):
    options, recipe = options_for(here), recipes.find(NAME)
    options = train.parse(
        [NAME, "--images", str(here / "images"), "--labels", str(here / "labels"), "--to", "x", *more]
    )
    options.pairs = command_line.open_data(options, "train", 3)
    train.choose_sizes(options, recipe)
    assert (options.resize, options.crop, options.sizes) == (resize, crop, {(80, 60): 8})


def test_the_model_is_tested_as_it_was_trained(here, uninterrupted):
    assert recipes.find(NAME).row.protocol.resize == (512, 512)
    assert uninterrupted.protocol == kd.Protocol("whole")
    recipe = recipes.find("deeplabv3_r50-d8_769x769_80k_cityscapes")
    assert recipe.protocol() == recipe.row.protocol == recipe.protocol(crop=(769, 769))
    small = kd.Protocol("slide", crop=(96, 128), stride=(64, 85), resize=(160, 120))
    assert recipe.protocol((160, 120), (96, 128)) == small
    assert recipe.protocol("own", (769, 769)).resize is None


def test_the_summary_says_what_is_trained(here, capsys):
    options, recipe = options_for(here), recipes.find(NAME)
    train.choose_sizes(options, recipe)
    options.validation = None
    report = train.check_data(options, 3, True)
    model = build(NAME, num_classes=3, classes=("dark", "grey", "bright"), palette=None)
    model.protocol = recipe.protocol(options.resize, options.crop)
    run = progress.Run(model, here / "new run", options.pairs, 2, 0, 0, 8, {})
    train.print_summary(run, recipe, options, devices.Devices(), report)
    shown = dict(re.split("  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert shown["pictures"] == "8 of 80x60" and shown["checked"] == "8 label maps of 8: no faults"
    shares = 100 * report.pixels / report.pixels.sum()
    assert f"grey {shares[1]:.3g} %" in shown["classes"] and shown["classes"].startswith("3: ")
    assert shown["resize"] == "own size; then times 0.5 to 2 at random" and shown["crop"] == "33x49 (height x width)"
    assert shown["test"] == "whole picture, at its own size" and shown["steps"] == "8 (2 epochs)"
    assert shown["device"] == "CPU:0" and shown["saves"] == f"{here / 'new run' / 'last.keras'} every 2 steps"


@pytest.fixture(scope="module")
def masks(here):
    """Masks of 0 and 255 of the pictures, in a folder named as Cityscapes names its own."""
    for path in (here / "labels").glob("*.png"):
        with Image.open(path) as image:
            mask = np.where(np.asarray(image) > 0, 255, 0).astype("uint8")
        to = here / "masks" / f"{path.stem}_mask.png"
        to.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(to)
    return here / "masks"


def test_masks_of_0_and_255_are_refused_with_their_remedy(here, masks):
    line = arguments(here, here / "new masks", "--labels", str(masks), "--num-classes", "2", "--class-weight", "1", "1")
    with pytest.raises(SystemExit) as stop:
        command_line.run(train.main, line)
    error = str(stop.value)
    assert error.startswith("error: Class 1 of 0..1 occurs in no label map. Received: 8 label maps with the labels 0 (")
    assert "Masks of 0 and 255 need --binary: 255 is then class 1" in error and "use --allow-missing-classes" in error
    assert not (here / "new masks").exists()


def one_output_line(here, to, masks, *more):
    """The arguments of `arguments` for one output: without a number of classes, and with a factor for one class."""
    line = arguments(here, to, "--labels", str(masks), "--binary", "--one-output", *more)
    for option, count in (("--num-classes", 1), ("--class-weight", 3)):
        at = line.index(option)
        del line[at : at + 1 + count]
    return line


def test_one_output_starts_from_a_file_of_this_kind(here, masks):
    weights = tensors(build(NAME, auxiliary_head=True))
    one = {name: array[:1] if ".conv_seg." in name else array for name, array in weights.items()}
    config = "model = dict(decode_head=dict(num_classes=2, out_channels=1, threshold=0.45))"
    (here / "one.pth").write_bytes(released(one, cfg=config))
    for more, threshold in (([], 0.45), (["--threshold", "0.6"], 0.6)):
        options = train.parse(one_output_line(here, "x", masks, "--init", str(here / "one.pth"), *more))
        model = train.new_model(recipes.find(NAME), options, 2, None)
        assert (model.threshold, model.num_classes) == (threshold, 2)
        kernel = model.get_layer("decode_head-conv_seg").kernel
        np.testing.assert_array_equal(np.asarray(kernel)[0, 0].T, one["decode_head.conv_seg.weight"][..., 0, 0])


@pytest.mark.slow
def test_one_output_is_trained_from_masks(here, masks):
    losses = ["--loss", "cross-entropy", "dice=3"]
    train.main(one_output_line(here, here / "one", masks, *losses, "--threshold", "0.4"))
    model = keras.saving.load_model(here / "one" / "model.keras")
    assert model.threshold == 0.4 and model.num_classes == 2
    assert {shape[-1] for shape in model.output_shape} == {1}  # of both heads
    train.main(one_output_line(here, here / "one", masks, *losses, "--threshold", "0.7"))  # the run is complete
    assert keras.saving.load_model(here / "one" / "model.keras").threshold == 0.7


@pytest.mark.slow
def test_the_documented_command_trains_a_light_model_from_an_imagenet_file(here, tmp_path, monkeypatch):
    """The command of docs/training.md word for word, with a file of the released layout and three options for speed."""
    page = (ROOT / "docs" / "training.md").read_text()
    command = page[page.index("keras-deeplab train deeplabv3plus_mobilenetv2_cityscapes") :].partition("```")[0]
    row, *options = command.replace("\\\n", " ").split()[2:]
    network = kd.from_preset(row, load_weights=False)
    own = {name: array for name, array in tensors(network).items() if name.startswith("backbone.")}
    behind = {"backbone.conv2.conv.weight": (1280, 320, 1, 1), "head.fc.weight": (1000, 1280), "head.fc.bias": (1000,)}
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "labels"):
        (tmp_path / folder).symlink_to(here / folder)
    file = Path(options[options.index("--init") + 1])
    file.write_bytes(released(own | {name: np.zeros(shape, "f4") for name, shape in behind.items()}))
    train.main([row, *options, "--steps", "1", "--batch", "2", "--crop", "33", "49"])
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert model.classes == ("dark", "grey", "bright") and model.row is None
    before, after = own["backbone.conv1.conv.weight"], model.get_layer("backbone-conv1-conv").kernel
    change = np.abs(np.transpose(before, (2, 3, 1, 0)) - after)
    assert 0 < change.max() < 0.1 * np.abs(before).max()  # one step from the file's weights


def test_several_machines_on_tensorflow_are_refused(here, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="JAX backend with keras.distribution"):
        train.main(arguments(here, here / "machines"))


@pytest.mark.slow
def test_two_devices_go_on_exactly(here):
    def call(to, *more):
        line = [sys.executable, "-m", "keras_deeplab", "train", *arguments(here, here / to, "--devices", "2", *more)]
        return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    uninterrupted, stopped = call("two"), call("two stopped", "--save-every", "1")
    while stopped.poll() is None and not (here / "two stopped" / "last.keras").exists():
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    assert "The same command continues from it" in stopped.communicate()[0] and uninterrupted.wait() == 0
    assert call("two stopped").wait() == 0
    assert equal_weights(here / "two" / "model.keras", here / "two stopped" / "model.keras")


@pytest.mark.slow
def test_two_jax_hosts_stop_go_on_and_are_exported_from_tensorflow(here):
    def call(to, *more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            hosts = f"127.0.0.1:{free.getsockname()[1]},127.0.0.1:0"
        options = arguments(here, here / to, "--hosts", hosts, *more)
        line = [sys.executable, "-m", "keras_deeplab", "train", *options, "--host"]
        settings = dict(env={**ENVIRONMENT, "KERAS_BACKEND": "jax"}, stdout=subprocess.PIPE, text=True)
        return [subprocess.Popen([*line, str(i)], **settings) for i in range(2)]

    first, second = call("hosts", *validated(here, every=5))
    printed = first.communicate()[0], second.communicate()[0]
    assert first.returncode == second.returncode == 0
    assert "step 5: mIoU" in printed[0] and "step" not in printed[1]
    killed = call("hosts killed")
    while killed[0].poll() is None and not (here / "hosts killed" / "last.keras").exists():
        time.sleep(0.05)
    for process in killed:
        process.kill()
        process.wait()
    assert [process.wait() for process in call("hosts killed")] == [0, 0]
    assert equal_weights(here / "hosts" / "model.keras", here / "hosts killed" / "model.keras")
    weights = ["--weights", str(here / "hosts" / "model.keras")]
    export.main([NAME, "--to", str(here / "from jax"), *weights])
    assert (here / "from jax" / "saved_model.pb").exists()
