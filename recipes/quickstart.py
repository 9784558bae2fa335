"""The whole way without a download: a checkpoint like the released ones, converted, checked, and a picture segmented.

    python -m recipes.quickstart --to quickstart

The weights are random and the network narrow, so the label map means nothing; everything that handles it is the real thing.
"""

import argparse
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from recipes import command

ROW = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
WIDTHS = dict(base_channels=16, stem_channels=16, aspp_channels=32, low_level_channels=12, auxiliary_channels=16)


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--to", metavar="DIR", default="quickstart", help="folder for the results")
    to = Path(arguments.parse_args(argv).to)
    to.mkdir(parents=True, exist_ok=True)

    import convert.__main__ as convert
    from convert.check import drawn
    from recipes import predict

    checkpoint, picture = to / "checkpoint.pth", to / "picture.png"
    print(f"A checkpoint with random weights: {checkpoint}")
    write_checkpoint(checkpoint, random_tensors())
    drawn(240, 320).save(picture)
    print(f"\npython -m convert {ROW} --checkpoint {checkpoint} --to {to}")
    convert.main([ROW, "--checkpoint", str(checkpoint), "--to", str(to)])
    print(f"\npython -m recipes.predict {ROW} {picture} --weights {to / 'model.keras'} --to {to / 'labels'}")
    predict.main([ROW, str(picture), "--weights", str(to / "model.keras"), "--to", str(to / "labels")])
    print(f"\nLook at {to / 'labels' / 'picture_overlay.png'}; TensorFlow Serving takes {to / 'saved_model'}.")


def random_tensors():
    """{PyTorch name: array} of a narrow network of ROW, every kernel drawn anew."""
    import keras

    import keras_deeplab as kd
    from keras_deeplab.zoo import table
    from keras_deeplab.zoo.assign import to_torch

    keras.utils.set_random_seed(0)
    model = kd.DeepLabV3Plus(**{**table.find(ROW).architecture, **WIDTHS}, auxiliary_head=True)
    classifier = model.get_layer("decode_head-conv_seg").kernel
    classifier.assign(keras.random.normal(classifier.shape))
    return to_torch(model)


def write_checkpoint(path, tensors):
    """A file as `torch.save({"meta": {}, "state_dict": tensors})` writes it, without torch; arrays are float32."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def integers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    out = io.BytesIO()
    out.write(pickle.PROTO + b"\x02}(" + text("meta") + b"}" + text("state_dict") + b"}(")
    for key, (name, array) in enumerate(tensors.items()):
        strides = np.array(array.strides) // array.itemsize
        storage = (
            text("storage")
            + b"ctorch\nFloatStorage\n"
            + text(str(key))
            + text("cpu")
            + b"J"
            + struct.pack("<i", array.size)
        )
        out.write(
            text(name)
            + b"ctorch._utils\n_rebuild_tensor_v2\n(("
            + storage
            + b"tQ"
            + b"K\0"
            + integers(array.shape)
            + integers(strides)
            + b"\x89}tR"
        )  # storage, offset, size, stride, requires_grad, hooks
    out.write(b"uu.")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", out.getvalue())
        for key, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", np.asarray(array, "<f4").tobytes())
        archive.writestr("archive/version", "3\n")


if __name__ == "__main__":
    command.run(main)
