"""An exported file and its model in, a comparison of their label maps out; the file runs in a process without Keras."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from keras_deeplab.evaluation.evaluate import confusion, read_pair, scores
from keras_deeplab.inference.segment import Network, segment, segment_with_network
from keras_deeplab.pictures.files import list_files
from keras_deeplab.pictures.read import read_image
from keras_deeplab.serving.export import purpose_of

SIZES = ((120, 160), (97, 65))  # height, width of the synthetic pictures
MAX_CALIBRATION_PICTURES, MAX_COMPARED_PICTURES = 128, 32
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
elif path.endswith(".xml"):
    import openvino
    run = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    labels = {name: run([picture[None]])["labels"][0] for name, picture in pictures.items()}
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


def require_same_labels(
    model,
    folder,
    *,
    size=None,
    max_pixels=None,
    multi_scale_flip=False,
    this_processor=False,
    pictures=None,
    reference=None,
    truth=None,
):
    """Compares the labels of a SavedModel with those of `segment`, for one batch of pictures of several sizes.

    Args:
        model: the model for `segment`, at the SavedModel's precision.
        folder: the SavedModel.
        size: (height, width) of the pictures in pixels, if the SavedModel takes one size only. Its graph then differs from
            that of `segment`, and up to `MAX_TIES` of the pixels of a picture may differ. None (the default): any sizes.
        max_pixels: the `max_pixels` of the SavedModel. Larger pictures are shrunk. None (the default): no picture is.
        multi_scale_flip, this_processor: those of the SavedModel.
        pictures: {name: (H, W, 3) uint8}. None (the default): synthetic pictures.
        reference: the float32 model to compare a variant with, or None (the default).
        truth: {name: true labels (H, W) uint8} of these pictures, or None (the default).

    Returns:
        [(what was checked, result)].

    Raises:
        ValueError: if a label differs.
    """
    network = Network(model, purpose_of(this_processor))
    # True labels are those of the pictures themselves, so that these are not compressed then.
    form = "JPEG" if truth is None else "PNG"
    files = {
        name: as_file(picture, form, max_pixels) for name, picture in (pictures or synthetic_pictures(size)).items()
    }
    if truth is not None:
        truth = {
            name: resized(labels, read_image(files[name]).shape[:2], Image.Resampling.NEAREST)
            for name, labels in truth.items()
        }
    served = labels_of(folder, {name: np.frombuffer(file, np.uint8) for name, file in files.items()})
    rows = []
    for name, file in files.items():
        expected = segment_with_network(network, model.protocol, file, multi_scale_flip)
        if served[name].ndim == 3:  # the palette's colours
            expected = np.array(model.palette, np.uint8)[expected]
        same = served[name] == expected
        if not same.all() and (size is None or same.mean() < 1 - MAX_TIES):
            raise ValueError(
                f"The SavedModel's labels must equal those of `segment`. Received: {same.size - same.sum()} values of the "
                f"picture {name} that differ. Do not serve this SavedModel."
            )
        rows.append((f"labels of {name}, without Keras", "equal" if same.all() else f"{same.mean():.3%} equal"))
    return rows + (
        agreement(reference, files, served, multi_scale_flip=multi_scale_flip, truth=truth) if reference else []
    )


def agreement(model, pictures, label_maps, *, multi_scale_flip=False, truth=None):
    """Scores a variant's label maps against those of the float32 model.

    Args:
        model: the float32 model.
        pictures: {name: what `segment` takes}.
        label_maps: {name: the variant's labels (H, W) uint8}.
        multi_scale_flip: as for `segment`.
        truth: {name: the true labels (H, W) uint8}, or None (the default).

    Returns:
        [(what was compared, result)]: the share of pixels with the same label, and the mIoU of the variant: beside that of
        float32 with the true labels, or without them with float32's labels as the truth.
    """
    expected = {name: segment(model, pictures[name], multi_scale_flip=multi_scale_flip) for name in label_maps}
    same = scores_against(expected, label_maps, model.num_classes)
    rows = [(f"same label as float32, pictures: {len(label_maps)}", f"{same['aAcc']:.3f} % of the pixels")]
    if truth is None:
        lost = 100 - same["mIoU"]
        return [*rows, ("mIoU, with float32's labels as the truth", f"{same['mIoU']:.2f}, a loss of {lost:.2f}")]
    before, after = (scores_against(truth, labels, model.num_classes)["mIoU"] for labels in (expected, label_maps))
    return [*rows, ("mIoU with the true labels", f"{after:.2f}, float32 {before:.2f}")]


def scores_against(truth, label_maps, num_classes):
    """The scores of label maps {name: labels} against {name: true labels}, as `scores` returns them."""
    return scores(sum(confusion(truth[name], labels, num_classes) for name, labels in label_maps.items()))


def labels_of(path, pictures):
    """Runs an exported file in a new process that cannot import Keras.

    Args:
        path: a SavedModel's folder, or a .tflite, .onnx or .xml file (OpenVINO).
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


def choose_files(folder, *, for_int8=False):
    """Chooses pictures of a folder, evenly.

    Args:
        folder: a folder of pictures.
        for_int8: whether some of them calibrate an int8 file. A fifth of the pictures is then kept for the comparison, so that
            it is made on pictures that the calibration has not seen. A folder of fewer than five serves for both.

    Returns:
        Two lists of paths: those to calibrate with, at most `MAX_CALIBRATION_PICTURES` (none without `for_int8`), and those to
        compare on, at most `MAX_COMPARED_PICTURES`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no pictures.
    """
    files = list_files(folder)
    if not for_int8:
        return [], evenly_chosen(files, MAX_COMPARED_PICTURES)
    compared = evenly_chosen(files, min(len(files) // 5, MAX_COMPARED_PICTURES))
    others = [file for file in files if file not in set(compared)]
    return evenly_chosen(others, MAX_CALIBRATION_PICTURES), compared or files


def evenly_chosen(files, count):
    """At most `count` elements of a list, at even distances."""
    count = min(len(files), count)
    return [files[i * len(files) // count] for i in range(count)]


def read_pictures(files, size=None):
    """Reads pictures, and resizes them to `size` (height, width) in pixels unless it is None.

    Returns:
        {stem: (H, W, 3) uint8}.

    Raises:
        ValueError: for a file that cannot be read.
    """
    pictures = {file.stem: read_image(file) for file in files}
    return {stem: resized(picture, size, Image.Resampling.BILINEAR) for stem, picture in pictures.items()}


def read_truth(model, pairs, files, size=None, *, reduce_zero_label=False, label_map=None):
    """Reads the true label maps of pictures, and resizes them as `read_pictures` does.

    Args:
        model: whose classes the labels are.
        pairs: `keras_deeplab.data.pairs.FilePairs` of at least these pictures.
        files: paths of pictures, as in `pairs`.
        size: (height, width) in pixels, or None: their own sizes.
        reduce_zero_label, label_map: as for `evaluate`.

    Returns:
        {stem of the picture: (H, W) uint8}.

    Raises:
        ValueError: as `keras_deeplab.evaluation.evaluate.read_pair`.
    """
    numbers = {image: number for number, image in enumerate(pairs.images)}
    truth = {file.stem: read_pair(pairs, numbers[file], model, reduce_zero_label, label_map)[2] for file in files}
    return {stem: resized(label, size, Image.Resampling.NEAREST) for stem, label in truth.items()}


def resized(array, size, resampling):
    """A picture or label map at `size` (height, width), or as it is if that is None."""
    return array if size is None else np.asarray(Image.fromarray(array).resize(size[::-1], resampling))


def synthetic_pictures(size=None):
    """{name: (H, W, 3) uint8}: one picture of `size` (height, width), or without `size` one of each of `SIZES`."""
    sizes = [size] if size else SIZES
    return {f"{width}x{height}": np.asarray(synthetic_picture(height, width)) for height, width in sizes}


def as_file(picture, form, max_pixels=None):
    """The bytes of a picture (H, W, 3) uint8 as a "JPEG" or "PNG" file, shrunk if it has more than `max_pixels` pixels."""
    image, file = Image.fromarray(picture), io.BytesIO()
    if max_pixels and image.width * image.height > max_pixels:
        shrink = (max_pixels / (image.width * image.height)) ** 0.5
        image = image.resize([max(1, int(side * shrink)) for side in image.size])
    image.save(file, form, quality=90)
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
