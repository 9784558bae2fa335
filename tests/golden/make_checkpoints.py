"""Writes checkpoints/: small files as PyTorch writes them, and the arrays that PyTorch reads from them.

    python make_checkpoints.py

Needs torch and mmengine; the files are of torch 2.13.0, mmengine 0.10.7 and numpy 1.26.4.

legacy.pth and zip.pth hold one flat state dict in the two containers; mmengine.pth nests it, with a "module."
before each name, beside the foreign objects of an mmengine run. expected.npz holds the flat state dict, with
bfloat16 widened.
"""

import collections
import pathlib

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

OUT = pathlib.Path(__file__).parent / "checkpoints"


def state_dict():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(12, generator=generator)
    square = torch.randn(3, 4, generator=generator)
    tensors = collections.OrderedDict(
        float32=torch.randn(2, 3, 1, 2, generator=generator),
        float16=torch.randn(5, generator=generator).half(),
        bfloat16=torch.randn(2, 3, generator=generator).bfloat16(),
        float64=torch.randn(2, generator=generator).double(),
        int64=torch.tensor(80000),
        int32=torch.tensor([-1, 2], dtype=torch.int32),
        int16=torch.tensor([-1, 2], dtype=torch.int16),
        int8=torch.tensor([-1, 2], dtype=torch.int8),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        empty=torch.zeros(0, 4),
        shared=shared,
        offset=shared[4:10].reshape(2, 3),
        steps=shared[1::3],
        transposed=square.t(),
        expanded=square[:, :1].expand(3, 5),
        channels_last=torch.randn(1, 2, 3, 2, generator=generator).contiguous(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
    )
    tensors._metadata = collections.OrderedDict({"": {"version": 1}})  # as `Module.state_dict` leaves it
    return tensors


def mmengine_checkpoint(tensors):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    meta = {"iter": 80000, "dataset_meta": {"palette": np.arange(6).reshape(2, 3)}, "best": np.float64(0.5)}
    return {
        "meta": {**meta, "seed": np.int64(7), "logs": [history]},
        "state_dict": collections.OrderedDict((f"module.{name}", tensor) for name, tensor in tensors.items()),
        "message_hub": {
            "log_scalars": {"train/loss": history},
            "runtime_info": {"device": torch.device("cpu")},
        },
        "optimizer": optimizer.state_dict(),
    }


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    tensors = state_dict()
    torch.save(tensors, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(tensors, OUT / "zip.pth")
    torch.save(mmengine_checkpoint(tensors), OUT / "mmengine.pth")
    widened = {name: t.float() if t.dtype == torch.bfloat16 else t for name, t in tensors.items()}
    np.savez_compressed(OUT / "expected.npz", **{name: t.detach().numpy() for name, t in widened.items()})
