"""Writes losses.npz: losses of mmsegmentation and their gradients, in float64.

    python make_losses.py

Needs what make_networks.py needs. Kept: logits and labels of several outputs and of one, and for each case of CASES in
tests/training/test_losses_against_original.py the loss ("NAME/loss") and its gradient to the logits ("NAME/gradient"), channels
last. The original's focal loss runs on a GPU only for label maps; here its formula gets one-hot labels, as its CUDA path does. Its
Dice loss of one output takes class 0 for the target: it gets the opposite labels here.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import make_networks  # noqa: E402, F401 (makes mmseg importable)
import torch  # noqa: E402
from mmseg.models.losses import CrossEntropyLoss, DiceLoss  # noqa: E402
from mmseg.models.losses.focal_loss import py_sigmoid_focal_loss  # noqa: E402
from mmseg.structures.sampler import OHEMPixelSampler  # noqa: E402

torch.Tensor.float = torch.Tensor.double  # the original casts targets to float32, which would round the results


class Head:
    """What the sampler asks its head for."""

    ignore_index = 255
    loss_decode = CrossEntropyLoss()


def mined(logits, labels, **options):
    weight = OHEMPixelSampler(Head(), **options).sample(logits, labels[:, None])
    return CrossEntropyLoss()(logits, labels, weight=weight, ignore_index=255)


def focal(logits, labels, **options):
    outputs = logits.shape[1]
    flat = logits.permute(0, 2, 3, 1).reshape(-1, outputs)
    known = torch.where(labels == 255, 0, labels).reshape(-1)
    target = known[:, None] if outputs == 1 else torch.nn.functional.one_hot(known, outputs)
    return py_sigmoid_focal_loss(flat, target, valid_mask=(labels != 255).reshape(-1, 1), **options)


def opposite(labels):
    return torch.where(labels == 255, labels, 1 - labels)


SEVERAL = {
    "softmax": lambda x, y: CrossEntropyLoss()(x, y, ignore_index=255),
    "softmax avg_non_ignore": lambda x, y: CrossEntropyLoss(avg_non_ignore=True)(x, y, ignore_index=255),
    "mined": lambda x, y: mined(x, y, thresh=None, min_kept=20),
    "mined thresh": lambda x, y: mined(x, y, thresh=0.3, min_kept=5),
    "mined thresh, many": lambda x, y: mined(x, y, thresh=0.1, min_kept=30),
    "sigmoid": lambda x, y: CrossEntropyLoss(use_sigmoid=True)(x, y, ignore_index=255),
    "sigmoid weighted": lambda x, y: CrossEntropyLoss(use_sigmoid=True, class_weight=[0.5, 1.0, 2.0, 3.0])(
        x.permute(0, 2, 3, 1),  # its class_weight belongs to the last axis
        torch.nn.functional.one_hot(torch.where(y == 255, 0, y), 4),
        weight=(y != 255)[..., None].expand(*y.shape, 4).double(),
        ignore_index=-1,
    ),
    "dice": lambda x, y: DiceLoss()(x, y),
    "dice softmax": lambda x, y: DiceLoss(use_sigmoid=False)(x, y),
    "dice naive": lambda x, y: DiceLoss(naive_dice=True, eps=1.0)(x, y),
    "focal": lambda x, y: focal(x, y),
    "focal weighted": lambda x, y: focal(x, y, gamma=1.5, alpha=[0.25, 0.5, 0.75, 0.9], class_weight=[1.0, 2.0, 0.5, 1.0]),
    "combined": lambda x, y: CrossEntropyLoss()(x, y, ignore_index=255) + 3 * DiceLoss(use_sigmoid=False)(x, y),
}
ONE = {
    "one sigmoid": lambda x, y: CrossEntropyLoss(use_sigmoid=True)(x, y, ignore_index=255),
    "one sigmoid avg_non_ignore": lambda x, y: CrossEntropyLoss(use_sigmoid=True, avg_non_ignore=True)(x, y, ignore_index=255),
    "one dice": lambda x, y: DiceLoss()(x, opposite(y)),
    "one focal": lambda x, y: focal(x, y, alpha=0.25),
}


def main():
    generator, kept = np.random.default_rng(0), {}
    for name, outputs, cases in (("several", 4, SEVERAL), ("one", 1, ONE)):
        logits = 2 * generator.standard_normal((2, outputs, 6, 7))
        labels = generator.integers(0, max(outputs, 2), (2, 6, 7))
        labels[generator.random(labels.shape) < 0.2] = 255
        kept |= {f"{name}/logits": logits.transpose(0, 2, 3, 1), f"{name}/labels": labels.astype(np.uint8)}
        for case, loss in cases.items():
            x = torch.tensor(logits, requires_grad=True)
            value = loss(x, torch.tensor(labels))
            value.backward()
            kept |= {f"{case}/loss": value.detach().numpy(), f"{case}/gradient": x.grad.numpy().transpose(0, 2, 3, 1)}
    np.savez_compressed(HERE / "losses.npz", **kept)


if __name__ == "__main__":
    main()
