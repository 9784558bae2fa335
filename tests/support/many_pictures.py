"""Many drawn pictures of 40 sizes, some of them damaged, and what their folder of results must hold."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from support.drawn import picture

import keras_deeplab as kd

SIZES = [(24 + 3 * (i % 8), 30 + 5 * (i // 8)) for i in range(40)]  # height, width


def write_pictures(folder, count, every=100):
    """Pictures of 40 sizes in folders of 7, JPEG and PNG; one of `every` is damaged.

    Returns:
        {path relative to `folder`: whether it is damaged}.
    """
    damaged = {}
    for i in range(count):
        path = folder / f"part {i // 7}" / f"{i}{('.jpg', '.png', '.JPEG')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        Image.fromarray(picture(*SIZES[i % 40], seed=i)).save(data, "PNG" if i % 3 == 1 else "JPEG")
        is_damaged = i % every == every // 2
        path.write_bytes(damage(data.getvalue(), i // every) if is_damaged else data.getvalue())
        damaged[str(path.relative_to(folder))] = is_damaged
    return damaged


def damage(data, way):
    """The bytes of a picture, cut short or replaced."""
    return [data[: len(data) // 2], b"", b"<html>not found</html>", data[:10]][way % 4]


def result_of(folder, name):
    return (folder / name).with_suffix(".png")


def labels_in(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


def assert_all_equal(model, images, to, damaged):
    """Every label map equals `segment`'s, and there is nothing else."""
    expected = {Path(name).with_suffix(".png") for name, is_damaged in damaged.items() if not is_damaged}
    expected |= {Path("predictions.jsonl")} | ({Path("failed.txt")} if any(damaged.values()) else set())
    assert {path.relative_to(to) for path in to.rglob("*") if path.is_file()} == expected
    for name, is_damaged in damaged.items():
        if not is_damaged:
            assert np.array_equal(labels_in(result_of(to, name)), kd.segment(model, images / name)), name


def names_in(failed):
    return {line.partition("\t")[0] for line in failed.read_text().splitlines()}
