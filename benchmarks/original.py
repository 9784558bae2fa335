"""The original's side of compare.py: what is to be timed in, a function that runs it once out. A worker process (worker.py).

It needs the packages that tests/golden/make_networks.py names.
"""

import contextlib
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "golden"), str(ROOT / "benchmarks")]
warnings.filterwarnings("ignore")

import make_networks as networks  # noqa: E402
import mmseg  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from make_training import sample_of  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.infer import BaseInferencer  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.apis import MMSegInferencer  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import batches, images  # noqa: E402
from worker import serve  # noqa: E402

init_default_scope("mmseg")
CONFIGS = networks.configs()
torch._inductor.config.freezing = True
torch._dynamo.config.recompile_limit = 64  # many models in one process run the same code


def build(row, is_narrow, classes=None, **options):
    """The configuration and the network of a row, with random weights."""
    if classes:
        options["num_classes"] = classes
    return networks.build(CONFIGS[row], full=not is_narrow, **options)


def arithmetic(precision):
    """A context that computes in `precision`."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def normalised(raw):
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32, normalised."""
    return torch.from_numpy((raw.astype("float32") - networks.MEAN) / networks.STD).permute(0, 3, 1, 2).contiguous()


def arranged(model, x, channels_last):
    """Model and input in the memory layout channels-last, or contiguous."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(memory_format=layout), x.contiguous(memory_format=layout)


def forward(
    row, precision, size, batch=1, is_narrow=False, classes=None, compiled=False, channels_last=False, key=None
):
    """Normalised pictures in, logits at their size out."""
    _, model = build(row, is_narrow, classes)
    model, x = arranged(model, normalised(images(*size, batch)), channels_last)
    metas = [dict(img_shape=tuple(size))] * batch

    def run(x):
        return model.encode_decode(x, metas)

    run = torch.compile(run, dynamic=False) if compiled else run

    def once():
        with torch.no_grad(), arithmetic(precision):
            return run(x).float().permute(0, 2, 3, 1)

    return once, {}


def product(precision, side, key=None):
    a, b = (torch.randn(side, side).to(getattr(torch, precision)) for _ in range(2))
    return lambda: (a @ b).float(), {"flop": 2 * side**3}


def step(row, precision, size, batch, is_narrow=False, channels_last=False, key=None):
    """A training step: both losses, gradients, the optimizer of the row's configuration."""
    cfg, model = build(row, is_narrow, dropout_ratio=0.0)
    raw, labels = (drawn[0] for drawn in batches(1, batch, *size, cfg.model.decode_head.num_classes))
    model, x = arranged(model.train(), normalised(raw), channels_last)
    samples = [sample_of(label) for label in labels]
    wrapper = dict(cfg.optim_wrapper, type="OptimWrapper")
    wrapper.pop("loss_scale", None)
    optimizer = build_optim_wrapper(model, Config(wrapper)._cfg_dict)

    def once():
        with arithmetic(precision):
            losses = model.loss(x, samples)
        loss = losses["decode.loss_ce"] + losses["aux.loss_ce"]
        optimizer.update_params(loss)
        return [float(loss.detach())]

    return once, {}


def segment(row, precision, picture, box, multi_scale_flip=False, is_narrow=False, classes=None, key=None):
    """A file in, a label map out, as the original's test and test-time augmentation do it."""
    cfg, model = build(row, is_narrow, classes)
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform["type"] == "Resize":
            transform["scale"] = tuple(box)
    pipelines = list(networks.pipelines(cfg, "box" if multi_scale_flip else None))

    def once():
        total = 0
        with arithmetic(precision):
            for pipeline in pipelines:
                data = pipeline(dict(img_path=picture))
                batch = model.data_preprocessor(dict(inputs=[data["inputs"]], data_samples=[data["data_samples"]]))
                with torch.no_grad():
                    prediction = model.predict(**batch)[0]
                if not multi_scale_flip:
                    return prediction.pred_sem_seg.data[0].numpy().astype(np.uint8)
                total = total + prediction.seg_logits.data.softmax(0) / len(pipelines)
            return total.argmax(0).numpy().astype(np.uint8)

    return once, {}


def folder(row, precision, pictures, to, box, is_narrow=False, key=None):
    """A folder of files in, PNG files of label maps out, by the original's inferencer, one picture at a time.

    `BaseInferencer` is called in place of `MMSegInferencer`, which would draw an overlay of each picture too.
    """
    cfg, model = build(row, is_narrow)
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform["type"] == "Resize":
            transform["scale"] = tuple(box)
    inferencer = MMSegInferencer(cfg, device="cpu")
    inferencer.model.load_state_dict(model.state_dict())
    inferencer.show_progress = False

    def once():
        inferencer.num_pred_imgs = 0
        with arithmetic(precision):
            BaseInferencer.__call__(inferencer, pictures, batch_size=1, img_out_dir="", pred_out_dir=to)
        with Image.open(Path(to, "00000000_pred.png")) as labels:
            return np.asarray(labels, np.uint8)

    return once, {}


class Exported(torch.nn.Module):
    """What `export` writes: normalised pictures in, logits out; or a picture uint8 (1, H, W, 3) in, its label map out."""

    def __init__(self, model, size, to):
        super().__init__()
        self.model, self.to, self.metas = model, to, [dict(img_shape=tuple(size))]

    def forward(self, x):
        if self.to == "forward":
            return self.model.encode_decode(x, self.metas)
        x = (x.float() - torch.from_numpy(networks.MEAN)) / torch.from_numpy(networks.STD)
        return self.model.encode_decode(x.permute(0, 3, 1, 2), self.metas).argmax(1).to(torch.uint8)


def export(row, precision, size, folder, to, is_narrow=False, key=None):
    """Writes original.onnx, for runtimes.py: the network alone (`to` is "forward"), or with all around it ("serving").

    It needs onnx.
    """
    _, model = build(row, is_narrow)
    file, raw = str(Path(folder, "original")), images(*size, 1)
    x = normalised(raw) if to == "forward" else torch.from_numpy(raw)
    np.save(f"{file}.npy", x.numpy())
    torch.onnx.export(Exported(model, size, to).eval(), (x,), f"{file}.onnx", dynamo=False, opset_version=18)
    return lambda: [0.0], {}


def conversion(row, precision, checkpoint, is_narrow=False, key=None):
    """A released file in, a model out, as mmsegmentation's `init_model` loads it."""
    cfg, _ = build(row, is_narrow)

    def once():
        state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
        model = MODELS.build(cfg.model)
        model.load_state_dict(state, strict=True)
        return model.eval().decode_head.conv_seg.bias.detach().numpy()

    return once, {}


MAKERS = dict(
    forward=forward,
    product=product,
    step=step,
    segment=segment,
    serving=segment,
    folder=folder,
    export=export,
    conversion=conversion,
)


def about():
    """{software: version}."""
    return {"mmsegmentation": mmseg.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    serve(MAKERS, about)
