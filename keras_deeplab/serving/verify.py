"""Does what was written give what the model gives? It is asked in a process that cannot import Keras."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from keras_deeplab.evaluation.evaluate import confusion, scores
from keras_deeplab.inference.segment import Network, segment, segment_by
from keras_deeplab.networks.fast.convolution import Purpose
from keras_deeplab.pictures.files import list_files
from keras_deeplab.pictures.read import read_image

SIZES = ((120, 160), (97, 65))  # height, width of the pictures asked for
CALIBRATION = 32  # pictures
TIES = 1e-3  # of the pixels
WITHOUT_KERAS = """
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
"""
SERVE = (
    WITHOUT_KERAS
    + """
import numpy as np
path, source, target = sys.argv[1:]
data = np.load(source, allow_pickle=False)
pictures = {name: data[name] for name in data.files}
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    labels = {name: session.run(["labels"], {"images": picture[None]})[0][0] for name, picture in pictures.items()}
elif path.endswith(".tflite"):
    import tensorflow as tf
    interpreter = tf.lite.Interpreter(path)
    run = interpreter.get_signature_runner()
    labels = {name: run(images=picture[None])["labels"][0] for name, picture in pictures.items()}
else:
    import tensorflow as tf
    def decoded(png):
        pixels = tf.io.decode_png(png).numpy()
        return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    serve = tf.saved_model.load(path).signatures["serving_default"]
    pngs = serve(image_bytes=tf.constant([file.tobytes() for file in pictures.values()]))["label_png"]
    labels = {name: decoded(png) for name, png in zip(pictures, pngs)}
np.savez(target, **labels)
assert not {"keras", "keras_deeplab"} & set(sys.modules)
"""
)


def same_labels(model, folder, *, size=None, max_pixels=None, pictures=None, reference=None):
    """Compares a SavedModel's labels, one batch of mixed sizes, with `segment`'s in the graph for any processor.

    Args:
        model: what `segment` gets: the model at the SavedModel's precision.
        size: (height, width) of the pictures, if the SavedModel takes one size only. Its graph is then another one than
            `segment`'s, and pixels whose best two classes are as good as equal may differ.
        max_pixels: that the SavedModel takes: larger pictures are shrunk.
        pictures: {name: (H, W, 3) uint8} to take in place of drawn ones.
        reference: the float32 model, to say how far a variant's labels are from its.

    Returns:
        [(what was checked, result)].

    Raises:
        ValueError: if a label differs.
    """
    network = Network(model, Purpose.ANY_PROCESSOR)
    files = {name: as_jpeg(picture, max_pixels) for name, picture in (pictures or drawn_pictures(size)).items()}
    served = labels_of(folder, {name: np.frombuffer(file, np.uint8) for name, file in files.items()})
    rows = []
    for name, file in files.items():
        expected = segment_by(network, model.protocol, file)
        if served[name].ndim == 3:  # the palette's colours
            expected = np.array(model.palette, np.uint8)[expected]
        same = served[name] == expected
        if not same.all() and (size is None or same.mean() < 1 - TIES):
            raise ValueError(
                f"The SavedModel in {folder} gives {same.size - same.sum()} values of the picture {name} otherwise than "
                "`segment`."
            )
        rows.append((f"labels of {name}.jpg, without Keras", "equal" if same.all() else f"{same.mean():.3%} equal"))
    return rows + (agreement(reference, files, served) if reference else [])


def agreement(model, pictures, found):
    """How far a variant's label maps are from the float32 model's, which count as the truth.

    Args:
        model: the float32 model.
        pictures: {name: what `segment` takes}.
        found: {name: the variant's labels (H, W) uint8}.

    Returns:
        [(what, result)]: the share of pixels with the same label, and the mIoU.
    """
    result = scores(
        sum(confusion(segment(model, pictures[name]), labels, model.num_classes) for name, labels in found.items())
    )
    return [
        (f"same label as float32, pictures: {len(found)}", f"{result['aAcc']:.3f} % of the pixels"),
        ("mIoU against float32's labels", f"{result['mIoU']:.2f}, costs {100 - result['mIoU']:.2f}"),
    ]


def labels_of(path, pictures):
    """The label maps {name: (H, W) uint8} that a SavedModel, a .tflite or an .onnx file gives in a process of its own.

    Args:
        pictures: {name: (H, W, 3) uint8, or for a SavedModel the bytes of a file, (N,) uint8}.

    Raises:
        ValueError: if it cannot be run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "pictures.npz"), Path(scratch, "labels.npz")
        np.savez(source, **pictures)
        done = subprocess.run(
            [sys.executable, "-c", SERVE, str(path), str(source), str(target)], capture_output=True, text=True
        )
        if done.returncode:
            raise ValueError(f"{path} could not be run without Keras: {done.stderr[-500:]}")
        with np.load(target) as labels:
            return dict(labels)


def calibration_pictures(folder, size=None):
    """Up to `CALIBRATION` pictures of a folder, evenly chosen, {stem: (H, W, 3) uint8}, stretched to `size` if given.

    Raises:
        ValueError, FileNotFoundError: where there is no folder, no picture, or one that cannot be read.
    """
    files = list_files(folder)
    count = min(len(files), CALIBRATION)
    pictures = {}
    for file in (files[i * len(files) // count] for i in range(count)):
        picture = Image.fromarray(read_image(file))
        pictures[file.stem] = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR) if size else picture)
    return pictures


def drawn_pictures(size=None):
    """{name: (H, W, 3) uint8} of `size` (height, width), or of several sizes."""
    return {f"{width}x{height}": np.asarray(drawn(height, width)) for height, width in ([size] if size else SIZES)}


def as_jpeg(picture, max_pixels=None):
    image, file = Image.fromarray(picture), io.BytesIO()
    if max_pixels and image.width * image.height > max_pixels:
        shrink = (max_pixels / (image.width * image.height)) ** 0.5
        image = image.resize([max(1, int(side * shrink)) for side in image.size])
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def drawn(height, width):
    """A picture of soft colours, the same every time."""
    coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
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
