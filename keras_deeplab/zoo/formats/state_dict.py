"""The object in a checkpoint file in, {tensor name: entry} of one set of weights out, under the names of its network.

Training code saves weights in many wrappings: in a dict beside the optimizer, with a prefix of a class that wraps the network,
with a second set of averaged weights. Only names are read here; an entry stands for a tensor that is not yet read.
"""

import re
from collections import Counter

from keras_deeplab.zoo.formats.unpickler import SAVE_WEIGHTS, checkpoint_error, short_repr, type_and_value

# Keys of a checkpoint under which training code keeps the weights. The first that is there counts.
KEYS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "params")
EMA_KEYS = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema")  # of the other set, for `ema=True`
EMA_PREFIX = "ema_"  # mmcv keeps the other set in the same dict: backbone.conv1.weight is ema_backbone_conv1_weight
MAX_DEPTH = 4  # dicts in dicts, and prefixes before prefixes

# Modules that wrap another one without changing it; their names are left out wherever they stand in a tensor's name.
TRANSPARENT = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PREFIXES = ("module.", "model.", "network.", "net.", "segmentor.")  # left out where all names have them
ANCHORS = ("backbone.layer1.0.conv1.weight", "decode_head.conv_seg.weight")  # what stands before them is a prefix too


def find_weights(content, is_tensor, *, ema=False):
    """The weights in a checkpoint.

    Args:
        content: the object of the file.
        is_tensor: a function of an entry that says whether it is a tensor.
        ema: whether to return the other set of weights, which an EMA hook of the training code keeps. Default False.

    Returns:
        {tensor name: entry}. Entries that are no tensors are kept, so that the reader can name them.

    Raises:
        CheckpointError: if the object holds no weights, several sets of weights and none under a common key, or with `ema` no
            other set.
    """
    if not isinstance(content, dict):
        raise checkpoint_error("A checkpoint must hold a dict of tensors.", type_and_value(content), SAVE_WEIGHTS)
    weights = _open(content, is_tensor)
    if not isinstance(weights, dict) or not weights:
        raise checkpoint_error("A state dict must hold at least one tensor.", type_and_value(weights), SAVE_WEIGHTS)
    weights = _plain_names(weights)
    averages = {name: entry for name, entry in weights.items() if _is_average(name)}
    weights = _plain_names({name: entry for name, entry in weights.items() if name not in averages} or weights)
    others = {name: averages.pop(key) for name in weights if (key := _average_name(name)) in averages}
    weights |= averages  # what belongs to no tensor is no average
    return weights if not ema else _other_set(content, weights, others, is_tensor)


def _open(content, is_tensor, depth=0):
    """The dict of tensors in a dict of anything, which may be the dict itself."""
    if "state_dict" in content and not isinstance(content["state_dict"], dict):
        return content["state_dict"]
    dicts = {key: value for key, value in content.items() if isinstance(value, dict) and depth < MAX_DEPTH}
    for key in KEYS:
        if key in dicts:
            return _open(dicts[key], is_tensor, depth + 1)
    names = [key for key, value in dicts.items() if value and all(map(is_tensor, value.values()))]
    if len(names) > 1 and not any(map(is_tensor, content.values())):
        rule = (
            f"The weights must be the only set of tensors in the file, or lie under one of the keys {', '.join(KEYS)}."
        )
        raise checkpoint_error(rule, f"sets under the keys {short_repr.repr(names)}", SAVE_WEIGHTS)
    return dicts[names[0]] if len(names) == 1 else content


def _is_average(name):
    return isinstance(name, str) and name.startswith(EMA_PREFIX) and "." not in name


def _average_name(name):
    """The name that mmcv's EMA hook gives to the average of a tensor."""
    return EMA_PREFIX + name.replace(".", "_") if isinstance(name, str) else None


def _other_set(content, weights, others, is_tensor):
    """The set of weights that an EMA hook keeps. Tensors of which it keeps none are those of the first set."""
    for key in EMA_KEYS:
        if isinstance(content.get(key), dict):
            counted = _open(content[key], is_tensor)  # mmengine's has the number of updates too, which has no prefix
            other = _plain_names({name: entry for name, entry in counted.items() if name != "steps"})
            others = {name: entry for name, entry in other.items() if name in weights}
    if not others:
        rule = f"For ema=True the file must hold tensors {EMA_PREFIX}*, or a dict under one of the keys {', '.join(EMA_KEYS)}."
        raise checkpoint_error(rule, "a file with one set of weights", "Leave ema out.")
    return weights | others


def _plain_names(weights):
    """The entries under the names of their network: without the names of modules that only wrap it."""
    if not all(isinstance(name, str) for name in weights):
        return weights  # the reader names the entry
    names = [TRANSPARENT.sub("", name) for name in weights]
    for _ in range(MAX_DEPTH):
        prefix = _common_prefix(names)
        names = [name.removeprefix(prefix) for name in names]
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        rule = "The tensors of a file must have different names without the names of wrapping modules."
        raise checkpoint_error(rule, f"{short_repr.repr(twice)} more than once", SAVE_WEIGHTS)
    return dict(zip(names, weights.values(), strict=True))


def _common_prefix(names):
    """A prefix that all names have and that is no part of the network's own names, or ""."""
    before = {name.removesuffix(anchor) for anchor in ANCHORS for name in names if name.endswith("." + anchor)}
    for prefix in (*PREFIXES, *(before if len(before) == 1 else ())):
        if all(name.startswith(prefix) for name in names):
            return prefix
    return ""
