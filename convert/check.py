"""Does what was written give what the model gives? The SavedModel is asked in a process that cannot import Keras."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((120, 160), (97, 65))  # height, width of the pictures asked for
SERVE = """
import importlib.machinery, sys
class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "keras_deeplab"):
            return importlib.machinery.ModuleSpec(name, Refuse)
    @staticmethod
    def create_module(spec):
        raise ImportError(spec.name)
    @staticmethod
    def exec_module(module):
        pass
sys.meta_path.insert(0, Refuse)
import numpy as np, tensorflow as tf
folder, source, target = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
data = np.load(source, allow_pickle=False)
png = serve(image_bytes=tf.constant([data[name].tobytes() for name in data.files]))["label_png"]
np.savez(target, **{name: tf.io.decode_png(p).numpy()[..., 0] for name, p in zip(data.files, png)})
assert not {"keras", "keras_deeplab"} & set(sys.modules)
"""


def same_labels(model, folder):
    """Compares the SavedModel's labels with `segment`'s on drawn pictures, as one batch of mixed sizes.

    Returns:
        (what was checked, result) for each picture.

    Raises:
        ValueError: if a label differs.
    """
    import keras_deeplab as kd

    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for height, width in SIZES:
            name = f"{width}x{height}"
            files[name] = Path(scratch, f"{name}.jpg")
            drawn(height, width).save(files[name], quality=90)
        pictures, answers = Path(scratch, "pictures.npz"), Path(scratch, "answers.npz")
        np.savez(pictures, **{name: np.frombuffer(file.read_bytes(), np.uint8) for name, file in files.items()})
        done = subprocess.run(
            [sys.executable, "-c", SERVE, str(folder), str(pictures), str(answers)], capture_output=True, text=True
        )
        if done.returncode:
            raise ValueError(f"The SavedModel in {folder} could not be run without Keras: {done.stderr[-500:]}")
        served = np.load(answers)
        rows = []
        for name, file in files.items():
            differing = int(np.sum(served[name] != kd.segment(model, file)))
            if differing:
                raise ValueError(
                    f"The SavedModel in {folder} labels {differing} pixels of a {name} picture otherwise than `segment`."
                )
            rows.append((f"labels of a {name} JPEG, without Keras", "equal"))
    return rows


def drawn(height, width):
    """A picture of soft colours, the same every time."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def largest_difference(model, path):
    """The largest difference from a reference's logits, in units of their standard deviation.

    Args:
        path: an .npz with `images` (N, H, W, 3) RGB of 0..255 and `logits` (N, H, W, classes), both at the same size.

    Raises:
        ValueError: if the file holds something else.
    """
    with np.load(path, allow_pickle=False) as reference:
        if not {"images", "logits"} <= set(reference.files):
            raise ValueError(f"{path} is an .npz with arrays `images` and `logits`. Received: {reference.files}.")
        images, expected = reference["images"], reference["logits"]
    logits = np.asarray(model(images))
    if logits.shape != expected.shape:
        raise ValueError(
            f"`logits` in {path} has the shape that the model gives, {logits.shape}. Received: {expected.shape}."
        )
    return float(np.abs(logits - expected).max() / expected.std())
