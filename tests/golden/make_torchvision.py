"""Writes torchvision.npz and torchvision.json: what torchvision gives for the weights and pictures of tests/support/drawn.py.

    python make_torchvision.py [--full]

Needs torch 2.14.1, torchvision 0.29.1 and Pillow 12.3: Pillow 13 resizes some pictures in another order. --full writes
torchvision_full.npz in their place: the first of what follows, of the networks as released, for the slow tests.

NETWORK/osSTRIDE/HxW/OUTPUT: `sample` of the narrow networks' logits and of the auxiliary head's, at the input's size, and the
standard deviation of all of them (/std). segment/...: for some pictures and short sides, the label map of the preset's whole
protocol at the picture's size (/labels) and at the resized one (/resized), `sample` of the scores, the CRC-32 of the resized
picture, and the classifier that was made to spread the classes over the first picture. train/...: some training steps in
float64 with the loss and the optimizer of the reference script, dropout off, as training.npz has them.
torchvision.json: the facts of the released weights.
"""

import json
import pathlib
import sys
import zlib

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import (  # noqa: E402
    FULL_SIZES,
    NARROW,
    SIZES,
    TORCHVISION_RUNS,
    TORCHVISION_SEGMENT,
    TORCHVISION_STRIDES,
    batches,
    evenly_spaced,
    images,
    picture,
    sample,
    weights,
)
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torchvision.models import mobilenetv3, resnet  # noqa: E402
from torchvision.models.segmentation import deeplabv3  # noqa: E402
from torchvision.transforms import functional as transforms  # noqa: E402
from torchvision.transforms._presets import SemanticSegmentation  # noqa: E402

CLASSES = 21
ENUMS = {
    "deeplabv3_resnet50_coco": deeplabv3.DeepLabV3_ResNet50_Weights,
    "deeplabv3_resnet101_coco": deeplabv3.DeepLabV3_ResNet101_Weights,
    "deeplabv3_mobilenet_v3_large": deeplabv3.DeepLabV3_MobileNet_V3_Large_Weights,
}
BLOCKS = {"deeplabv3_resnet50_coco": [3, 4, 6, 3], "deeplabv3_resnet101_coco": [3, 4, 23, 3]}
DILATED = {8: [False, True, True], 16: [False, False, True], 32: [False, False, False]}


class NarrowResNet(resnet.ResNet):
    """torchvision's ResNet with an eighth of its channels."""

    def __init__(self, blocks, dilated):
        super().__init__(resnet.Bottleneck, blocks, replace_stride_with_dilation=dilated)
        self.conv1 = nn.Conv2d(3, NARROW["stem_channels"], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(NARROW["stem_channels"])

    def _make_layer(self, block, planes, *args, **options):
        if planes == 64:
            self.inplanes = NARROW["stem_channels"]
        return super()._make_layer(block, planes * NARROW["base_channels"] // 64, *args, **options)


def narrow_backbone(name, output_stride):
    """(backbone, channels of its last features, channels of those that the auxiliary head supervises)."""
    if name in BLOCKS:
        backbone, base = NarrowResNet(BLOCKS[name], DILATED[output_stride]), NARROW["base_channels"]
        layers = {"layer4": "out", "layer3": "aux"}
        return deeplabv3.IntermediateLayerGetter(backbone, return_layers=layers), 32 * base, 16 * base
    settings, last = mobilenetv3._mobilenet_v3_conf(
        "mobilenet_v3_large", width_mult=NARROW["base_channels"] / 16, dilated=output_stride == 16
    )
    whole = deeplabv3._deeplabv3_mobilenetv3(mobilenetv3.MobileNetV3(settings, last), CLASSES, True)
    return whole.backbone, whole.classifier[0].convs[0][0].in_channels, whole.aux_classifier[0].in_channels


def narrow(name, output_stride):
    backbone, last, supervised = narrow_backbone(name, output_stride)
    rates = (12, 24, 36) if output_stride == TORCHVISION_STRIDES[name][0] else tuple(
        rate * TORCHVISION_STRIDES[name][0] // output_stride for rate in (12, 24, 36)
    )  # fmt: skip
    channels, classifier = NARROW["aspp_channels"], deeplabv3.DeepLabHead(last, CLASSES, rates)
    classifier[0] = deeplabv3.ASPP(last, rates, channels)
    classifier[1] = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    classifier[2], classifier[4] = nn.BatchNorm2d(channels), nn.Conv2d(channels, CLASSES, 1)
    channels, auxiliary = NARROW["auxiliary_channels"], deeplabv3.FCNHead(supervised, CLASSES)
    auxiliary[0] = nn.Conv2d(supervised, channels, 3, padding=1, bias=False)
    auxiliary[1], auxiliary[4] = nn.BatchNorm2d(channels), nn.Conv2d(channels, CLASSES, 1)
    return deeplabv3.DeepLabV3(backbone, classifier, auxiliary)


def full(name):
    build = getattr(deeplabv3, name.removesuffix("_coco"))
    return build(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def drawn(model):
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim:
                tensor.copy_(torch.from_numpy(weights(name, tuple(tensor.shape))))
    return model.eval()


def last(tensor):
    return tensor.permute(0, 2, 3, 1).contiguous().numpy()


def normalised(raw, dtype="float32"):
    x = torch.from_numpy(raw).permute(0, 3, 1, 2).to(getattr(torch, dtype)) / 255
    return transforms.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def logits(model, key, sizes):
    for height, width in sizes:
        with torch.no_grad():
            found = model(normalised(images(height, width)))
        for output, name in (("out", "logits"), ("aux", "auxiliary")):
            yield f"{key}/{height}x{width}/{name}", sample(last(found[output]))
            yield f"{key}/{height}x{width}/{name}/std", found[output].numpy().std()


def scores(model, image, short_side):
    """The picture resized by the preset, and the scores at its size."""
    preset = SemanticSegmentation(resize_size=short_side)
    resized = transforms.resize(image, [short_side], antialias=True)
    with torch.no_grad():
        return np.asarray(resized), model(preset(image)[None])["out"]


def segment(name, short_side, sizes):
    model, key = drawn(narrow(name, TORCHVISION_STRIDES[name][0])), f"segment/{name}/{short_side}"
    pictures = [Image.fromarray(picture(*size, seed=i)) for i, size in enumerate(sizes)]
    deviation, mean = torch.std_mean(scores(model, pictures[0], short_side)[1][0], dim=(1, 2))
    classifier = model.classifier[4]  # every class gets mean 0 and deviation 1 over the first picture
    with torch.no_grad():
        classifier.bias.copy_((classifier.bias - mean) / deviation)
        classifier.weight.div_(deviation[:, None, None, None])
    yield f"{key}/weight", classifier.weight.detach().numpy()
    yield f"{key}/bias", classifier.bias.detach().numpy()
    for (height, width), image in zip(sizes, pictures, strict=True):
        resized, found = scores(model, image, short_side)
        own = F.interpolate(found, (height, width), mode="bilinear", align_corners=False)
        of_picture = f"{key}/{height}x{width}"
        yield f"{of_picture}/labels", own[0].argmax(0).numpy().astype(np.uint8)
        yield f"{of_picture}/resized", found[0].argmax(0).numpy().astype(np.uint8)
        yield f"{of_picture}/scores", sample(last(own))
        yield f"{of_picture}/std", own.numpy().std()
        yield f"{of_picture}/crc", np.array([*resized.shape[:2], zlib.crc32(resized.tobytes())])


def train(name, steps, size, rate, decay):
    model = drawn(narrow(name, TORCHVISION_STRIDES[name][0])).double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    parts = [{"params": list(part.parameters())} for part in (model.backbone, model.classifier, model.aux_classifier)]
    parts[2]["lr"] = 10 * rate
    optimizer = torch.optim.SGD(parts, lr=rate, momentum=0.9, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=2 * steps, power=0.9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = []
    for raw, labels in zip(*batches(steps, 4, *size, CLASSES), strict=True):
        found, target = model(normalised(raw, "float64")), torch.from_numpy(labels.astype(np.int64))
        of_heads = [F.cross_entropy(found[output], target, ignore_index=255) for output in ("out", "aux")]
        loss = of_heads[0] + 0.5 * of_heads[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    after = {name: tensor for name, tensor in sorted(model.state_dict().items()) if tensor.ndim}
    yield f"train/{name}/losses", np.array(losses)
    yield f"train/{name}/few", np.concatenate([evenly_spaced(tensor.numpy()) for tensor in after.values()])
    yield (
        f"train/{name}/change",
        np.array([float((tensor - before[key]).abs().max()) for key, tensor in after.items()]),
    )


def facts():
    """{row: what the released weights tell of themselves}."""
    for name, enum in ENUMS.items():
        (member,) = enum
        (metrics,) = member.meta["_metrics"].values()
        preset = member.transforms()
        yield (
            name,
            {
                "member": member.name,
                "url": member.url,
                "classes": ["background" if c == "__background__" else c for c in member.meta["categories"]],
                "num_params": member.meta["num_params"],
                "mebibytes": member.meta["_file_size"],
                "mIoU": metrics["miou"],
                "pixel_accuracy": metrics["pixel_acc"],
                "resize_size": preset.resize_size,
                "antialias": preset.antialias,
                "mean": preset.mean,
                "std": preset.std,
            },
        )


if __name__ == "__main__":
    kept = {}
    if "--full" in sys.argv:
        for name in ENUMS:
            kept |= logits(drawn(full(name)), f"{name}/os{TORCHVISION_STRIDES[name][0]}", FULL_SIZES)
        np.savez_compressed(HERE / "torchvision_full.npz", **kept)
    else:
        for name, strides in TORCHVISION_STRIDES.items():
            for stride in strides:
                kept |= logits(drawn(narrow(name, stride)), f"{name}/os{stride}", SIZES)
        for name, short_side, sizes in TORCHVISION_SEGMENT:
            kept |= segment(name, short_side, sizes)
        for name, run in TORCHVISION_RUNS.items():
            kept |= train(name, *run)
        np.savez_compressed(HERE / "torchvision.npz", **kept)
        (HERE / "torchvision.json").write_text(json.dumps(dict(facts()), indent=1) + "\n")
