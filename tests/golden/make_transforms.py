"""Writes transforms.npz: what mmsegmentation's training transforms make of drawn pictures, given drawn numbers.

    python make_transforms.py

Needs what make_networks.py needs. The random functions that the transforms call are replaced by ones that hand out the
numbers `u` of 0..1, in the order in which `keras_deeplab.data.transforms.draws_of` uses them. Pictures are
`drawn.picture(height, width, seed)`.

    cases   (N, 6): height, width, seed, crop height, crop width, whether the zero label is reduced
    u       (N, 33)
    labels  mapN: the label map of the picture
    wholeN  height, width, CRC-32 of the resized picture, CRC-32 of the resized label map
    boxN    top, left of the crop, and how many boxes were drawn for it
    imageN, labelN: the crop after flip and photometric distortion, before padding; the label after it
    padded  the last case's picture as the network gets it: normalised, then padded; float32 (height, width, 3)
    distorted_32, distorted_61: (K, 32, width, 3), noise of `drawn.images` distorted by the numbers distorted_u (K, 9)
    ratio, offsets, attempts, switches, hue: 2,000 draws of the original's own random numbers (see `sample`)
"""

import pathlib
import sys
import types
import zlib

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import without_compiled_ops  # noqa: E402

without_compiled_ops.install()

import mmseg.datasets  # noqa: E402, F401
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmcv.transforms import RandomFlip, RandomResize  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.datasets.transforms import LoadAnnotations, PhotoMetricDistortion, RandomCrop  # noqa: E402
from mmseg.datasets.transforms import transforms as module  # noqa: E402
from mmseg.models import SegDataPreProcessor  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from support.drawn import images, picture  # noqa: E402

init_default_scope("mmseg")
BASE, RATIO, FLIP, SHARE = (160, 80), (0.5, 2.0), 0.5, 0.75
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
CASES = [  # height, width, seed, crop height, crop width, reduce_zero_label
    (90, 160, 0, 48, 64, 0),
    (90, 160, 1, 48, 64, 1),
    (61, 97, 2, 48, 64, 0),
    (61, 97, 3, 48, 64, 1),
    (40, 200, 4, 48, 64, 0),
    (160, 90, 5, 48, 64, 0),
    (80, 160, 6, 64, 32, 0),
    (33, 47, 7, 64, 96, 0),
    (120, 120, 8, 40, 40, 0),
    (64, 80, 9, 80, 96, 1),
]


class Script:
    """Stands for numpy.random: hands out given numbers of 0..1 as the function asked for would."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def randint(self, low, high=None):
        low, high = (0, low) if high is None else (low, high)
        return int(np.floor(self.numbers.pop(0) * (high - low))) + low

    def uniform(self, low, high):
        return float(np.float32(low + self.numbers.pop(0) * (high - low)))

    def random_sample(self):
        return self.numbers.pop(0)


class Log:
    """Stands for numpy.random and keeps what it gave."""

    def __init__(self):
        self.given = []

    def __getattr__(self, name):
        def draw(*arguments):
            self.given.append(getattr(np.random, name)(*arguments))
            return self.given[-1]

        return draw


def photometric_script(u):
    """The original asks for a coin, then for a number only if it fell on 1; ours says yes below one half."""
    brightness, contrast = [1 - u[0], *([u[1]] if u[0] < 0.5 else [])], [1 - u[2], *([u[3]] if u[2] < 0.5 else [])]
    last = u[4] < 0.5
    saturation, hue = [1 - u[5], *([u[6]] if u[5] < 0.5 else [])], [1 - u[7], *([u[8]] if u[7] < 0.5 else [])]
    order = [saturation, hue, contrast] if last else [contrast, saturation, hue]
    return Script(*brightness, 0.0 if last else 0.9, *sum(order, []))


def distort(image, u):
    """Of RGB; the original's works on BGR."""
    module.random = photometric_script(u)
    bgr = PhotoMetricDistortion()(dict(img=np.ascontiguousarray(image[..., ::-1])))["img"]
    assert not module.random.numbers
    return bgr[..., ::-1]


class OneSample:
    """While open, numpy.random's functions are those of a script."""

    def __init__(self, script):
        self.names, self.script = ("randint", "random_sample"), script

    def __enter__(self):
        self.kept = {name: getattr(np.random, name) for name in self.names}
        for name in self.names:
            setattr(np.random, name, getattr(self.script, name))

    def __exit__(self, *_):
        for name, function in self.kept.items():
            setattr(np.random, name, function)


def label_map(height, width, seed, zero):
    """Blocks of classes, one of them frequent, some of them 255."""
    generator = np.random.default_rng([seed, 1])
    coarse = generator.choice([0, 1, 2, 3, 255], (5, 8), p=[0.66, 0.1, 0.1, 0.04, 0.1]).astype(np.uint8)
    coarse += np.uint8(zero) * (coarse < 255) * generator.integers(0, 2, coarse.shape, dtype=np.uint8)
    return coarse[np.arange(height) * 5 // height][:, np.arange(width) * 8 // width]


def reduced(label, zero):
    load = LoadAnnotations.__new__(LoadAnnotations)
    load.reduce_zero_label, load.imdecode_backend, load.backend_args = bool(zero), "pillow", None
    results = dict(seg_map_path="", reduce_zero_label=bool(zero), seg_fields=[])
    kept = module_of_loading.fileio.get, module_of_loading.mmcv.imfrombytes
    module_of_loading.fileio.get = lambda *_, **__: b""
    module_of_loading.mmcv.imfrombytes = lambda *_, **__: label.copy()
    try:
        load._load_seg_map(results)
    finally:
        module_of_loading.fileio.get, module_of_loading.mmcv.imfrombytes = kept
    return results["gt_seg_map"]


module_of_loading = sys.modules[LoadAnnotations.__module__]


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def case(number, kept, u, height, width, seed, crop_height, crop_width, zero):
    label = label_map(height, width, seed, zero)
    kept[f"map{number}"] = label
    results = dict(img=np.ascontiguousarray(picture(height, width, seed)[..., ::-1]), gt_seg_map=reduced(label, zero))
    results["seg_fields"] = ["gt_seg_map"]
    offsets, u = u[:22], u[22:]
    with OneSample(Script(u[0])):
        results = RandomResize(scale=BASE, ratio_range=RATIO, keep_ratio=True)(results)
    whole, map_ = results["img"], results["gt_seg_map"]
    kept[f"whole{number}"] = np.array([*map_.shape, crc(whole[..., ::-1]), crc(map_)])
    script = Script(*offsets)
    crop = RandomCrop((crop_height, crop_width), cat_max_ratio=SHARE)
    boxes = []
    original = crop.crop
    crop.crop = lambda image, box: boxes.append(box) or original(image, box)
    with OneSample(script):
        results = crop(results)
    kept[f"box{number}"] = np.array([boxes[-1][0], boxes[-1][2], (len(offsets) - len(script.numbers)) // 2])
    flip = RandomFlip(prob=FLIP)
    flip._choose_direction = lambda: "horizontal" if u[1] < FLIP else None
    results = flip(results)
    image = distort(results["img"][..., ::-1], u[2:])
    kept[f"image{number}"] = image
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(results["gt_seg_map"].copy())[None]))
    preprocess = SegDataPreProcessor(
        mean=MEAN, std=STD, bgr_to_rgb=True, size=(crop_height, crop_width), pad_val=0, seg_pad_val=255
    )
    tensor = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
    batch = preprocess(dict(inputs=[tensor], data_samples=[sample]), training=True)
    kept[f"label{number}"] = batch["data_samples"][0].gt_sem_seg.data[0].numpy()
    kept["padded"] = batch["inputs"][0].numpy().transpose(1, 2, 0)


def sample(kept, count=2000):
    """The original's own draws: ratio; offsets and number of boxes on a label map where many are refused; switches."""
    np.random.seed(0)
    kept["ratio"] = np.zeros(count, np.float32)
    for i in range(count):
        log = Log()
        RandomResize._random_sample_ratio.__globals__["np"] = types.SimpleNamespace(random=log)
        RandomResize._random_sample_ratio((1, 1), RATIO)
        kept["ratio"][i] = log.given[0] * (RATIO[1] - RATIO[0]) + RATIO[0]
    RandomResize._random_sample_ratio.__globals__["np"] = np
    label, crop, boxes = kept["map0"], RandomCrop((24, 32), cat_max_ratio=SHARE), []
    kept["offsets"], kept["attempts"] = np.zeros((count, 2), np.uint8), np.zeros(count, np.uint8)
    results = dict(img=np.zeros((*label.shape, 3), np.uint8), gt_seg_map=label, seg_fields=["gt_seg_map"])
    original = crop.crop
    crop.crop = lambda image, box: boxes.append(box) or original(image, box)
    for i in range(count):
        boxes.clear()
        np_random = np.random.randint
        calls = []
        np.random.randint = lambda *a, f=np_random, calls=calls: calls.append(f(*a)) or calls[-1]
        crop(dict(results))
        np.random.randint = np_random
        kept["offsets"][i], kept["attempts"][i] = calls[-2:], len(calls) // 2
    flips = RandomFlip(prob=FLIP)
    kept["flips"] = np.array(
        sum(flips(dict(img=np.zeros((2, 2, 3), np.uint8)))["flip"] for _ in range(count)), np.int64
    )
    switches, kept["hue"] = np.zeros(5, np.int64), np.zeros(36, np.int64)
    for _ in range(count):
        module.random = log = Log()
        PhotoMetricDistortion()(dict(img=np.full((1, 1, 3), 99, np.uint8)))
        given = iter(log.given)
        brightness = next(given)
        if brightness:
            next(given)
        last = 1 - next(given)
        on = {}
        for step in ("saturation", "hue", "contrast") if last else ("contrast", "saturation", "hue"):
            on[step] = next(given)
            if on[step]:
                value = next(given)
                if step == "hue":
                    kept["hue"][value + 18] += 1
        switches += [brightness, on["contrast"], last, on["saturation"], on["hue"]]
    kept["switches"] = switches  # how often: brightness, contrast, contrast last, saturation, hue


def main():
    generator = np.random.default_rng(11)
    kept = {"cases": np.array(CASES), "u": generator.random((len(CASES), 33))}
    for number, row in enumerate(CASES):
        case(number, kept, kept["u"][number], *row)
    u = generator.random((16, 9))
    for number in range(16):  # every combination of contrast first or last, saturation, hue, all else
        switches = [number >> bit & 1 for bit in range(4)]
        u[number, [2, 4, 5, 7]] = [0.2 + 0.5 * switch for switch in switches]
    kept["distorted_u"] = u
    for width in (32, 61):
        noise = images(32, width, len(u))
        kept[f"distorted_{width}"] = np.stack([distort(*pair) for pair in zip(noise, u, strict=True)])
    sample(kept)
    np.savez_compressed(HERE / "transforms.npz", **kept)


if __name__ == "__main__":
    main()
