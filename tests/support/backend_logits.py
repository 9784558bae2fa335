"""Names of networks in, a label map and logits of each narrow model out. test_backends runs it in another process.

python backend_logits.py FOLDER NAME..., with KERAS_BACKEND set, writes FOLDER/NAME.npz. NAME is a row of OpenMMLab, or one of
`authors.NETWORKS`.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from support import authors  # noqa: E402
from support.drawn import SIZES, images, picture, sample  # noqa: E402
from support.narrow import drawn  # noqa: E402

import keras_deeplab as kd  # noqa: E402


def network_of(name):
    """A model, and the one that gives the logits."""
    if name not in authors.NETWORKS:
        model = drawn(name, auxiliary_head=True)
        return model, model
    model = authors.drawn(name, output_stride=16)
    return model, keras.Model(model.input, {"logits": model.get_layer("logits").input[0]})  # at the head's own stride


folder, *names = sys.argv[1:]
for name in names:
    model, network = network_of(name)
    labels = kd.segment(model, picture(60, 80, seed=0), resize=(120, 90))
    results = {"backend": keras.backend.backend(), "labels": labels}
    for height, width in SIZES:
        for output, values in network(images(height, width).astype("float32")).items():
            results[f"{height}x{width}/{output}"] = sample(keras.ops.convert_to_numpy(values))
    np.savez(Path(folder, f"{name}.npz"), **results)
