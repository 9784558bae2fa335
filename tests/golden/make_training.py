"""Writes training.npz: some steps of mmsegmentation's own training of the narrow networks, in float64, dropout off.

    python make_training.py

Needs what make_networks.py needs. Kept for each row of `drawn.TRAINING_RUNS`: the losses of every step (decode, auxiliary),
and of every tensor of the state dict, in the order of their names, `evenly_spaced` values after the last step and the largest
change.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import make_networks as networks  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.optim import PolyLR, build_optim_wrapper  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from support.drawn import TRAINING_RUNS, batches, evenly_spaced  # noqa: E402


def sample_of(labels):
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(labels.astype(np.int64))[None]))
    sample.set_metainfo(dict(img_shape=labels.shape, ori_shape=labels.shape))
    return sample


def train(path, iterations, steps, size, rate, min_kept):
    cfg, model = networks.build(path, dropout_ratio=0.0)
    model.double().train()
    if min_kept:
        model.decode_head.sampler.min_kept = min_kept
    wrapper = dict(cfg.optim_wrapper, type="OptimWrapper")
    wrapper.pop("loss_scale", None)
    if rate:
        wrapper["optimizer"] = dict(wrapper["optimizer"], lr=rate)
    optimizer = build_optim_wrapper(model, Config(wrapper)._cfg_dict)
    poly = cfg.param_scheduler[0]
    schedule = PolyLR(optimizer, eta_min=poly.eta_min, power=poly.power, begin=0, end=iterations, by_epoch=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = []
    for raw, labels in zip(*batches(steps, 4, *size, cfg.model.decode_head.num_classes), strict=True):
        x = (raw.astype("float64") - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
        found = model.loss(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), [sample_of(label) for label in labels])
        parts = found["decode.loss_ce"], found["aux.loss_ce"]
        losses.append([float(part.detach()) for part in parts])
        optimizer.update_params(sum(parts))
        schedule.step()
    yield "losses", np.array(losses)
    after = {name: tensor for name, tensor in sorted(model.state_dict().items()) if tensor.ndim}
    yield "few", np.concatenate([evenly_spaced(tensor.numpy()) for tensor in after.values()])
    yield "change", np.array([float((tensor - before[name]).abs().max()) for name, tensor in after.items()])


if __name__ == "__main__":
    init_default_scope("mmseg")
    kept = networks.already_in(HERE / "training.npz")
    for name, (steps, size, rate, min_kept) in TRAINING_RUNS.items():
        if f"{name}/losses" in kept:
            continue
        iterations = 300_000 if "300k" in name else 80_000
        for key, value in train(networks.configs()[name], iterations, steps, size, rate, min_kept):
            kept[f"{name}/{key}"] = value
        print(name, kept[f"{name}/losses"].sum(1), flush=True)
    np.savez_compressed(HERE / "training.npz", **kept)
