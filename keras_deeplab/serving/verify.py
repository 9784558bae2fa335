"""An exported file and its model in, a comparison of their label maps out; the file runs in a process without Keras."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from keras_deeplab.evaluation.evaluate import confusion, scores
from keras_deeplab.inference.segment import Network, segment, segment_with_network
from keras_deeplab.networks.fast.convolution import Purpose
from keras_deeplab.pictures.files import list_files
from keras_deeplab.pictures.read import read_image

SIZES = ((120, 160), (97, 65))  # height, width of the synthetic pictures
MAX_CALIBRATION_PICTURES = 32
MAX_TIES = 1e-3  # share of the pixels that may differ because their best two classes have almost equal scores
# Python code that makes every import of Keras or keras_deeplab fail.
WITHOUT_KERAS = """
import importlib.machinery, sys
class RefuseImport:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "keras_deeplab"):
            return importlib.machinery.ModuleSpec(name, RefuseImport)
    @staticmethod
    def create_module(spec):
        raise ImportError(spec.name)
    @staticmethod
    def exec_module(module):
        pass
sys.meta_path.insert(0, RefuseImport)
"""
# A program with the arguments: exported file, .npz of pictures, .npz of label maps to write.
RUN_EXPORTED = (
    WITHOUT_KERAS
    + """
import numpy as np
path, source, target = sys.argv[1:]
arrays = np.load(source, allow_pickle=False)
pictures = {name: arrays[name] for name in arrays.files}
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


def require_same_labels(model, folder, *, size=None, max_pixels=None, pictures=None, reference=None):
    """Compares the labels of a SavedModel with those of `segment`, for one batch of pictures of several sizes.

    Args:
        model: the model for `segment`, at the SavedModel's precision.
        folder: the SavedModel.
        size: (height, width) of the pictures in pixels, if the SavedModel takes one size only. Its graph then differs from
            that of `segment`, and up to `MAX_TIES` of the pixels of a picture may differ. None (the default): any sizes.
        max_pixels: the `max_pixels` of the SavedModel. Larger pictures are shrunk. None (the default): no picture is.
        pictures: {name: (H, W, 3) uint8}. None (the default): synthetic pictures.
        reference: the float32 model to compare a variant with, or None (the default).

    Returns:
        [(what was checked, result)].

    Raises:
        ValueError: if a label differs.
    """
    network = Network(model, Purpose.ANY_PROCESSOR)
    files = {name: as_jpeg(picture, max_pixels) for name, picture in (pictures or synthetic_pictures(size)).items()}
    served = labels_of(folder, {name: np.frombuffer(file, np.uint8) for name, file in files.items()})
    rows = []
    for name, file in files.items():
        expected = segment_with_network(network, model.protocol, file)
        if served[name].ndim == 3:  # the palette's colours
            expected = np.array(model.palette, np.uint8)[expected]
        same = served[name] == expected
        if not same.all() and (size is None or same.mean() < 1 - MAX_TIES):
            raise ValueError(
                f"The SavedModel's labels must equal those of `segment`. Received: {same.size - same.sum()} values of the "
                f"picture {name} that differ. Do not serve this SavedModel."
            )
        rows.append((f"labels of {name}.jpg, without Keras", "equal" if same.all() else f"{same.mean():.3%} equal"))
    return rows + (agreement(reference, files, served) if reference else [])


def agreement(model, pictures, label_maps):
    """Scores a variant's label maps, with those of the float32 model as the truth.

    Args:
        model: the float32 model.
        pictures: {name: what `segment` takes}.
        label_maps: {name: the variant's labels (H, W) uint8}.

    Returns:
        [(what was compared, result)]: the share of pixels with the same label, and the mIoU.
    """
    result = scores(
        sum(confusion(segment(model, pictures[name]), labels, model.num_classes) for name, labels in label_maps.items())
    )
    return [
        (f"same label as float32, pictures: {len(label_maps)}", f"{result['aAcc']:.3f} % of the pixels"),
        ("mIoU, with float32's labels as the truth", f"{result['mIoU']:.2f}, a loss of {100 - result['mIoU']:.2f}"),
    ]


def labels_of(path, pictures):
    """Runs an exported file in a new process that cannot import Keras.

    Args:
        path: a SavedModel's folder, a .tflite file or an .onnx file.
        pictures: {name: (H, W, 3) uint8}; for a SavedModel {name: the bytes of a JPEG or PNG file as (N,) uint8}.

    Returns:
        {name: label map (H, W) uint8}; (H, W, 3) RGB for a SavedModel that was exported with `palette`.

    Raises:
        ValueError: if the process fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "pictures.npz"), Path(scratch, "labels.npz")
        np.savez(source, **pictures)
        completed = subprocess.run(
            [sys.executable, "-c", RUN_EXPORTED, str(path), str(source), str(target)], capture_output=True, text=True
        )
        if completed.returncode:
            raise ValueError(
                f"{path} must run in a process that cannot import Keras. Received this error: {completed.stderr[-500:]}"
            )
        with np.load(target) as labels:
            return dict(labels)


def calibration_pictures(folder, size=None):
    """Reads up to `MAX_CALIBRATION_PICTURES` pictures of a folder, evenly chosen.

    Args:
        folder: a folder of pictures.
        size: (height, width) in pixels to resize them to. None (the default): their own sizes.

    Returns:
        {stem: (H, W, 3) uint8}.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no pictures, or one that cannot be read.
    """
    files = list_files(folder)
    count = min(len(files), MAX_CALIBRATION_PICTURES)
    pictures = {}
    for file in (files[i * len(files) // count] for i in range(count)):
        picture = Image.fromarray(read_image(file))
        pictures[file.stem] = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR) if size else picture)
    return pictures


def synthetic_pictures(size=None):
    """{name: (H, W, 3) uint8}: one picture of `size` (height, width), or without `size` one of each of `SIZES`."""
    sizes = [size] if size else SIZES
    return {f"{width}x{height}": np.asarray(synthetic_picture(height, width)) for height, width in sizes}


def as_jpeg(picture, max_pixels=None):
    """The bytes of a picture (H, W, 3) uint8 as JPEG, shrunk if it has more than `max_pixels` pixels."""
    image, file = Image.fromarray(picture), io.BytesIO()
    if max_pixels and image.width * image.height > max_pixels:
        shrink = (max_pixels / (image.width * image.height)) ** 0.5
        image = image.resize([max(1, int(side * shrink)) for side in image.size])
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def synthetic_picture(height, width):
    """A picture of soft colours, a `PIL.Image.Image`, the same in every call."""
    coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def largest_difference(model, path):
    """The largest difference between the model's logits and a reference's, in standard deviations of the reference's.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        path: an .npz file with `images` (N, H, W, 3) RGB of 0..255 and the reference's `logits` (N, H, W, classes).

    Raises:
        ValueError: if the file has other arrays, or logits of another shape than the model's.
    """
    with np.load(path, allow_pickle=False) as reference:
        if not {"images", "logits"} <= set(reference.files):
            raise ValueError(f"{path} must have the arrays `images` and `logits`. Received: {reference.files}.")
        images, expected = reference["images"], reference["logits"]
    logits = np.asarray(model(images))
    if logits.shape != expected.shape:
        raise ValueError(
            f"`logits` in {path} must have the shape of the model's logits, {logits.shape}. Received: {expected.shape}."
        )
    return float(np.abs(logits - expected).max() / expected.std())
