"""A file of weights in, {tensor name: array} and its metadata out: of PyTorch, safetensors or TensorFlow 1."""

import os
from typing import NamedTuple

import numpy as np

from keras_deeplab.zoo.formats import safetensors, torch_file
from keras_deeplab.zoo.formats.unpickler import DOWNLOAD_AGAIN, CheckpointError, checkpoint_error


class Checkpoint(NamedTuple):
    """The contents of a file of weights.

    Attributes:
        tensors: {tensor name: array}, in file order.
        meta: the "meta" dict of a checkpoint, or the metadata of a safetensors file; {} if there is none. Whatever is not
            plain Python data is a `Placeholder`.
    """

    tensors: dict[str, np.ndarray]
    meta: dict


def load_checkpoint(path: str | os.PathLike, *, ema: bool = False) -> dict[str, np.ndarray]:
    """Reads the weights of a PyTorch checkpoint (.pth), a safetensors file or a TensorFlow 1 file, without PyTorch.

    Args:
        path: a file written by `torch.save`, as legacy stream or zip container, or a safetensors file. It holds a flat dict of
            tensors, or such a dict under the key "state_dict", "model_state_dict", "model_state" or "model", or as its only
            dict of tensors, beside others ("meta", "optimizer", ...). Or a TensorFlow checkpoint (`model.ckpt-30000`, the
            beginning of its names, or one of its files), a frozen graph (`.pb`), or a `.tar.gz` of one of these.
        ema: whether to read the other set of weights that an EMA hook keeps: mmcv's tensors "ema_*", or mmengine's dict
            "ema_state_dict". Default False: the weights that mmsegmentation loads for a test. These are the averages in a file
            of mmengine, whose hook swaps both sets as it saves, and the plain weights in a file that mmcv saved by iterations.
            Of TensorFlow's files the moving averages.

    Returns:
        {tensor name: array}, in file order. The names are the network's own: prefixes that all names share, such as "module.",
        "model." and "_orig_mod.", are left out, and so are the other set of weights and what an optimizer keeps. The dtypes
        are those of the file, except that bfloat16 becomes float32, which is exact. Arrays are in C order and writable.
        Contiguous tensors that share a storage share memory.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        CheckpointError: if the file is of another kind, is damaged, its weights have an entry that is not a dense tensor (such
            as None), or there is no other set of weights for `ema`.

    Source: `torch.load`, the format of safetensors, and `tf.train.load_checkpoint`.
    """
    return read_checkpoint(path, ema=ema).tensors


def read_checkpoint(path: str | os.PathLike, *, ema: bool = False) -> Checkpoint:
    """Reads the weights and the metadata of any file that `load_checkpoint` takes.

    Args:
        path, ema: as for `load_checkpoint`.

    Returns:
        A `Checkpoint`. Its `tensors` are what `load_checkpoint` returns.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        CheckpointError: as for `load_checkpoint`.
    """
    from keras_deeplab.zoo.formats import tensorflow_checkpoint  # which imports this file

    path = os.fspath(path)
    if tensorflow_checkpoint.is_one(path):
        return tensorflow_checkpoint.read_checkpoint(path, ema=ema)
    if os.path.isdir(path):
        raise CheckpointError(
            f"{path}: A checkpoint must be one file. Received: a directory. Name the .pth file in it."
        )
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no checkpoint at {path!r}. Download it first, or correct the path.")
    with open(path, "rb") as file:
        try:
            read = safetensors.read if safetensors.FIRST_BYTES.match(file.read(9)) else torch_file.read
            file.seek(0)
            return Checkpoint(*read(file, os.fstat(file.fileno()).st_size, ema=ema))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # for a damaged file zipfile, zlib, json and pickletools raise many kinds of errors
            reason = f"{type(error).__name__}: {error}"[:200]
            message = checkpoint_error("The file is damaged: it must be readable to its end.", reason, DOWNLOAD_AGAIN)
            raise CheckpointError(f"{path}: {message}") from error
