"""The original's side of gpu.py: PyTorch with channels-last tensors. A worker process (worker.py)."""

import contextlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

import original  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from original import batches, images, normalised  # noqa: E402
from worker import serve  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.benchmark = True


class OnDevice:
    """A tensor on the GPU that becomes an array when numpy asks for it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __array__(self, dtype=None, copy=None):
        return self.tensor.float().cpu().numpy()


def arithmetic(precision):
    """A context that computes in `precision`: "exact" is float32 without TF32."""
    torch.backends.cudnn.allow_tf32 = precision != "exact"
    if precision != "bfloat16":
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, torch.bfloat16)


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def forget_peak():
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def on_device(model, raw):
    last = torch.channels_last
    return model.to(DEVICE, memory_format=last), normalised(raw).to(DEVICE).contiguous(memory_format=last)


def forward(row, precision, size, batch, passes, compiled, key=None):
    """Normalised pictures in, logits at their size out."""
    model, x = on_device(original.build(row, is_narrow=False)[1], images(*size, batch))
    metas = [dict(img_shape=tuple(size))] * batch
    run = torch.compile(lambda x: model.encode_decode(x, metas), dynamic=False) if compiled else None

    def once():
        forget_peak()
        with torch.no_grad(), arithmetic(precision):
            for _ in range(passes):
                logits = run(x) if compiled else model.encode_decode(x, metas)
        wait()
        return OnDevice(logits.permute(0, 2, 3, 1))

    return once, {}


def step(row, precision, size, batch, passes, compiled, key=None):
    """Training steps: both losses, gradients, the optimizer of the row's configuration.

    `model.loss` computes the accuracy besides, and cannot be compiled whole. The losses here are what it calls.
    """
    cfg, model = original.build(row, is_narrow=False, dropout_ratio=0.0)
    raw, labels = (drawn[0] for drawn in batches(1, batch, *size, cfg.model.decode_head.num_classes))
    model, x = on_device(model.train(), raw)
    labels = torch.from_numpy(labels.astype("int64")).to(DEVICE)
    wrapper = dict(cfg.optim_wrapper, type="OptimWrapper")
    wrapper.pop("loss_scale", None)
    optimizer = build_optim_wrapper(model, Config(wrapper)._cfg_dict)

    def loss_of(x):
        features = model.extract_feat(x)
        total = 0.0
        for head in (model.decode_head, model.auxiliary_head):
            logits = F.interpolate(head(features), labels.shape[1:], mode="bilinear", align_corners=head.align_corners)
            weight = head.loss_decode.loss_weight
            # Over all pixels, those of 255 too, as mmsegmentation divides.
            total = total + weight * F.cross_entropy(logits, labels, ignore_index=255, reduction="sum") / labels.numel()
        return total

    loss_of = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def once():
        forget_peak()
        losses = []
        for _ in range(passes):
            with arithmetic(precision):
                loss = loss_of(x)
            optimizer.update_params(loss)
            losses.append(float(loss.detach()))
        return losses

    return once, {}


def about():
    """{software: version}, and the peak of bytes on the GPU."""
    return {**original.about(), "memory": torch.cuda.max_memory_allocated()}


if __name__ == "__main__":
    serve(dict(forward=forward, step=step), about)
