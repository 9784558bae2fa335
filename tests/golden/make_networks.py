"""Writes logits.npz and segment.npz: what mmsegmentation gives for the weights and pictures of tests/support/drawn.py.

    python make_networks.py [--full]

Needs torch 2.13.0, mmsegmentation 1.2.2, mmengine 0.10.7, mmcv-lite 2.1.0, opencv-python-headless 4.11, ftfy and regex.

--full writes logits_full.npz in their place: the networks as released, for the slow tests (minutes). What a file has already
is kept: delete the file to compute all of it again.

logits.npz: for every distinct network of the zoo, narrow, `sample` of the logits and of the auxiliary head's, at the input's
size, and the standard deviation of all of them. segment.npz: for some rows and pictures, the label map of the row's whole
test pipeline, `sample` of its scores, the CRC-32 of the resized picture, and the classifier that was made to spread the
classes over the picture. Channels last throughout.
"""

import pathlib
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import without_compiled_ops  # noqa: E402

without_compiled_ops.install()

import json  # noqa: E402

import mmseg  # noqa: E402
import mmseg.datasets  # noqa: E402, F401
import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.models.utils import make_divisible, resize  # noqa: E402
from mmseg.registry import MODELS, TRANSFORMS  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import FULL_SIZES, NARROW, SIZES, images, picture, sample, weights  # noqa: E402

MIM = pathlib.Path(mmseg.__file__).parent / ".mim"
MEAN, STD = np.array([123.675, 116.28, 103.53], "float32"), np.array([58.395, 57.12, 57.375], "float32")
SEGMENT = {  # row: (height, width) of pictures; one of each is smaller than a window
    "deeplabv3plus_r18-d8_512x1024_80k_cityscapes": [(60, 80), (97, 61), (31, 45)],
    "deeplabv3_r50-d8_769x769_80k_cityscapes": [(60, 80), (97, 61), (31, 45)],
    "deeplabv3plus_r101-d8_480x480_40k_pascal_context": [(60, 80), (97, 61), (31, 95)],
    "deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes": [(60, 80), (97, 61), (31, 45)],
    "deeplabv3plus_r18-d8_512x512_80k_loveda": [(60, 80), (97, 61), (31, 45)],
    "deeplabv3plus_m-v2-d8_512x512_160k_ade20k": [(60, 80), (97, 61)],
    "deeplabv3_s101-d8_512x512_160k_ade20k": [(60, 80), (97, 61)],
}
TTA = {"box": "deeplabv3plus_r18-d8_512x512_80k_loveda", "picture": "deeplabv3_r50-d8_769x769_80k_cityscapes"}
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def configs():
    """{released name: configuration file}, from mmsegmentation's own index.

    Where the index errs (two Pascal Context R-101 are filed as R-50, one name is misspelt) the released name is right.
    """
    found = {}
    for folder in ("deeplabv3", "deeplabv3plus", "mobilenet_v2", "resnest"):
        index = yaml.safe_load((MIM / "configs" / folder / "metafile.yaml").read_text())
        for model in index["Models"]:
            if not model["In Collection"].startswith("DeepLabV3"):
                continue
            name, config = model["Weights"].split("/")[-2], model["Config"].replace("/dd", "/d")
            found[name] = MIM / (config.replace("_r50-", "_r101-") if "_r101-" in name else config)
    return found


def build(path, full=False, **options):
    """A configuration file's narrow or full model with drawn weights and `options` for its heads, and the configuration."""
    cfg = Config.fromfile(path)
    backbone, head, auxiliary = cfg.model.backbone, cfg.model.decode_head, cfg.model.auxiliary_head
    cfg.model.pretrained = None
    backbone.pop("init_cfg", None)
    for part in (backbone, head, auxiliary):
        part.norm_cfg = dict(type="BN", requires_grad=True)
    head.update(options)
    auxiliary.update(options)
    if not full:
        low_level, third_stage, last_stage = narrow(backbone)
        head.update(in_channels=last_stage, channels=NARROW["aspp_channels"])
        auxiliary.update(in_channels=third_stage, channels=NARROW["auxiliary_channels"])
        if "c1_channels" in head:
            head.update(c1_in_channels=low_level, c1_channels=NARROW["low_level_channels"])
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim:
                tensor.copy_(torch.from_numpy(weights(name, tuple(tensor.shape))))
    return cfg, model.eval()


def narrow(backbone):
    """Makes a backbone's configuration narrow; returns the channels of the first, the third and the last of its features."""
    base = NARROW["base_channels"]
    if backbone.type == "MobileNetV2":
        backbone.update(widen_factor=base / 32)
        return [make_divisible(width * base / 32, 8) for width in (24, 96, 320)]
    backbone.update(base_channels=base, stem_channels=NARROW["stem_channels"])
    expansion = 1 if backbone.depth == 18 else 4
    return base * expansion, base * 4 * expansion, base * 8 * expansion


def last(tensor):
    return tensor.permute(0, 2, 3, 1).contiguous().numpy()


def logits(model, height, width):
    x = torch.from_numpy((images(height, width).astype("float32") - MEAN) / STD).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        features = model.extract_feat(x)
        for name, head in (("logits", model.decode_head), ("auxiliary", model.auxiliary_head)):
            yield (
                name,
                last(resize(head(features), (height, width), mode="bilinear", align_corners=model.align_corners)),
            )


def pipelines(cfg, tta):
    steps = [dict(step) for step in cfg.test_dataloader.dataset.pipeline if step["type"] != "LoadAnnotations"]
    box = next(step for step in steps if step["type"] == "Resize")["scale"]
    views = [(dict(scale=box), 0.0)]
    if tta:
        sizes = [
            dict(scale=tuple(int(side * f) for side in box)) if tta == "box" else dict(scale_factor=f) for f in FACTORS
        ]
        views = [(size, flip) for size in sizes for flip in (0.0, 1.0)]
    for size, flip in views:
        chosen = []
        for step in steps:
            if step["type"] == "Resize":
                chosen += [
                    dict(type="Resize", keep_ratio=True, **size),
                    dict(type="RandomFlip", prob=flip, direction="horizontal"),
                ]
            else:
                chosen.append(step)
        yield Compose([TRANSFORMS.build(step) for step in chosen])


def run(model, pipe, path):
    data = pipe(dict(img_path=str(path)))
    batch = model.data_preprocessor(dict(inputs=[data["inputs"]], data_samples=[data["data_samples"]]))
    with torch.no_grad():
        return data["inputs"], batch, model.predict(**batch)[0].seg_logits.data


def spread(model, path, cfg):
    """Gives every class mean 0 and deviation 1 over a picture by the classifier: all of them win somewhere."""
    _, _, scores = run(model, next(pipelines(cfg, None)), path)
    deviation, mean = torch.std_mean(scores, dim=(1, 2))
    classifier = model.decode_head.conv_seg
    with torch.no_grad():
        classifier.bias.copy_((classifier.bias - mean) / deviation)
        classifier.weight.div_(deviation[:, None, None, None])
    return classifier.weight.detach().numpy(), classifier.bias.detach().numpy()


def already_in(path):
    """The arrays of a golden file, or none if it does not exist yet."""
    return dict(np.load(path)) if path.exists() else {}


def make_logits(paths, full=False):
    path = HERE / ("logits_full.npz" if full else "logits.npz")
    kept = already_in(path)
    made = {key.split("/")[0] for key in kept}
    for name in distinct():
        if name in made:
            continue
        _, model = build(paths[name], full)
        for height, width in FULL_SIZES if full else SIZES:
            for output, values in logits(model, height, width):
                kept[f"{name}/{height}x{width}/{output}"] = sample(values)
                kept[f"{name}/{height}x{width}/{output}/std"] = values.std()
        print(name, flush=True)
    np.savez_compressed(path, **kept)


def distinct():
    """The first row of each network: rows that differ in training alone share one."""
    zoo = json.loads((HERE / "zoo.json").read_text())
    columns = [
        c
        for c in zoo["columns"]
        if c in ("family", "backbone_type", "depth", "output_stride", "multi_grid", "num_classes", "align_corners")
    ]
    found = {}
    for values in zoo["rows"]:
        row = dict(zip(zoo["columns"], values, strict=True))
        found.setdefault(str([row[c] for c in columns]), row["name"])
    return list(found.values())


def make_segment(paths):
    path = HERE / "segment.npz"
    kept = already_in(path)
    made = {key.split("/")[0] for key in kept}
    with tempfile.TemporaryDirectory() as scratch:
        for name, sizes in SEGMENT.items():
            if name in made:
                continue
            cfg, model = build(paths[name])
            files = []
            for i, (height, width) in enumerate(sizes):
                files.append(pathlib.Path(scratch, f"{height}x{width}.png"))
                Image.fromarray(picture(height, width, seed=i)).save(files[-1])
            kept[f"{name}/weight"], kept[f"{name}/bias"] = spread(model, files[0], cfg)
            for file in files:
                for tta in [None] + [t for t, row in TTA.items() if row == name]:
                    views = [run(model, pipe, file) for pipe in pipelines(cfg, tta)]
                    scores = views[0][2] if tta is None else sum(v[2].softmax(0) for v in views) / len(views)
                    key = f"{name}/{file.stem}" + (f"/{tta}" if tta else "")
                    kept[f"{key}/labels"] = scores.argmax(0).numpy().astype(np.uint8)
                    kept[f"{key}/scores"] = sample(last(scores[None]))
                    kept[f"{key}/std"] = scores.std().numpy()
                    if tta is None:
                        resized = np.ascontiguousarray(views[0][0].permute(1, 2, 0).numpy()[..., ::-1])
                        kept[f"{key}/crc"] = np.array([*resized.shape[:2], zlib.crc32(resized.tobytes())])
                    print(key, len(np.unique(kept[f"{key}/labels"])), "classes", flush=True)
    np.savez_compressed(path, **kept)


if __name__ == "__main__":
    init_default_scope("mmseg")
    if "--full" in sys.argv:
        make_logits(configs(), full=True)
    else:
        make_logits(configs())
        make_segment(configs())
