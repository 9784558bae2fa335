"""The weights are found in what training code wraps around them, under the names of their network."""

import collections

import numpy as np
import pytest
from support.torch_files import Call, Global, legacy, tensor, zipped

from keras_deeplab.zoo.formats.checkpoint import load_checkpoint, read_checkpoint
from keras_deeplab.zoo.formats.unpickler import CheckpointError

NAMES = ("backbone.layer1.0.conv1.weight", "decode_head.conv_seg.weight", "decode_head.conv_seg.bias")


def entries(prefix="", start=0, names=NAMES):
    return {prefix + name: tensor(np.array([start + i], "f4")) for i, name in enumerate(names)}


@pytest.fixture
def read(tmp_path):
    def read(value, **options):
        path = tmp_path / "file.pth"
        path.write_bytes(zipped(value))
        return {name: array.item() for name, array in load_checkpoint(path, **options).items()}

    return read


PLAIN = {name: float(i) for i, name in enumerate(NAMES)}
OPTIMIZER = {"state": {0: {"momentum_buffer": tensor(np.zeros(2, "f4"))}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
NOISE = {"optimizer": OPTIMIZER, "epoch": 3, "rng": tensor(np.zeros(4, "u1"))}


@pytest.mark.parametrize(
    "wrapped",
    [
        entries(),
        *({key: entries(), **NOISE} for key in ("state_dict", "model_state", "model_state_dict", "model", "net")),
        {"student": entries(), **NOISE},
        {"model": {"state_dict": entries(), "epoch": 3}},
        {"state_dict": {"model": entries()}},
        {"model": entries(), "model_ema": entries(start=9)},
        {"state_dict": entries(), "teacher": entries(start=9)},
    ],
)
def test_wrappers_are_opened(read, wrapped):
    assert read(wrapped) == PLAIN


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module.model.", "model._orig_mod.module.", "segmentor.", "my.net_1."]
)
def test_prefixes_that_all_names_have_are_left_out(read, prefix):
    assert read({"state_dict": entries(prefix)}) == PLAIN


def test_modules_that_only_wrap_are_left_out_wherever_they_stand(read):
    names = [name.replace(".", "._orig_mod.", 1) for name in NAMES]
    assert read(entries(names=names)) == PLAIN
    names[0] = NAMES[0].replace(".0.", ".0._checkpoint_wrapped_module.")
    assert read(entries(names=names)) == PLAIN


def test_a_prefix_of_some_names_and_the_networks_own_names_stay(read):
    assert set(read({**entries("model."), "loss.weight": tensor(np.zeros(1))})) > {"loss.weight", f"model.{NAMES[0]}"}
    assert list(read(entries(names=NAMES[1:]))) == list(NAMES[1:])
    assert list(read({"features.0.weight": tensor(np.zeros(1))})) == ["features.0.weight"]


def test_names_that_become_equal_are_refused(read):
    twins = {"a.weight": tensor(np.zeros(1)), "a._orig_mod.weight": tensor(np.ones(1))}
    with pytest.raises(CheckpointError, match="must have different names.* Received: 'a.weight' more than once"):
        read(twins)


def test_several_sets_of_weights_without_a_common_key_are_named(read):
    with pytest.raises(
        CheckpointError, match="must be the only set.* Received: sets under the keys .*'student', 'teacher'"
    ):
        read({"student": entries(), "teacher": entries(start=9)})


def test_averages_of_mmcv_are_the_other_set(read):
    """Its hook keeps ema_* in the same dict, for parameters only; a test loads what has the plain names."""
    averages = {"ema_" + name.replace(".", "_"): tensor(np.array([9 + i], "f4")) for i, name in enumerate(NAMES[:2])}
    for prefix in ("", "module."):
        file = {"state_dict": entries(prefix) | {prefix + name: entry for name, entry in averages.items()}}
        assert read(file) == PLAIN
        assert read(file, ema=True) == {NAMES[0]: 9.0, NAMES[1]: 10.0, NAMES[2]: 2.0}


def test_averages_of_mmengine_are_the_first_set(read):
    """Its hook swaps both sets as it saves, so that a test loads the averages from "state_dict"."""
    other = {"steps": tensor(np.array(7)), **entries("module.", start=9)}
    file = {"state_dict": entries(), "ema_state_dict": other, "message_hub": {}}
    assert read(file) == PLAIN
    assert list(read(file, ema=True).values()) == [9, 10, 11]
    assert list(read({"model": entries(), "model_ema": entries("module.", 9)}, ema=True).values()) == [9, 10, 11]


def test_a_name_that_begins_as_an_average_stays(read):
    assert read({**entries(), "ema_scale": tensor(np.ones(1))}) == {**PLAIN, "ema_scale": 1.0}


def test_without_another_set_ema_is_refused(read):
    with pytest.raises(CheckpointError, match="For ema=True the file must hold tensors ema_.* Leave ema out"):
        read(entries(), ema=True)


@pytest.mark.parametrize("container", [legacy, zipped])
def test_the_configuration_of_the_message_hub_is_part_of_the_metadata(tmp_path, container):
    hub = {"runtime_info": collections.OrderedDict(cfg="model = dict()"), "log_scalars": Call(Global("x", "History"))}
    (tmp_path / "a.pth").write_bytes(container({"state_dict": entries(), "meta": {"iter": 3}, "message_hub": hub}))
    assert read_checkpoint(tmp_path / "a.pth").meta == {"iter": 3, "cfg": "model = dict()"}


def test_a_long_prefix_takes_no_long_time(read):
    """Each pass leaves one prefix out: the number of passes is bounded."""
    name = "module." * 10**5 + "weight"
    (read_name,) = read({name: tensor(np.zeros(1))})
    assert read_name == "module." * (10**5 - 8) + "weight"


def test_pickled_models_are_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(zipped({"model": Call(Global("mmseg.models", "EncoderDecoder"))}))
    with pytest.raises(CheckpointError, match="entry 'model'.*mmseg.models.EncoderDecoder, not loaded"):
        load_checkpoint(tmp_path / "a.pth")
