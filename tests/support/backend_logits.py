"""A network's name in, a label map and logits of its narrow model out. test_backends runs it in another process.

python backend_logits.py ROW OUT.npz, with KERAS_BACKEND set. ROW is a row of OpenMMLab, or one of `authors.NETWORKS`.
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

name, path = sys.argv[1:]
if name in authors.NETWORKS:
    model = authors.drawn(name, output_stride=16)
    network = keras.Model(model.input, {"logits": model.get_layer("logits").input[0]})  # at the head's own stride
else:
    model = network = drawn(name, auxiliary_head=True)
results = {"backend": keras.backend.backend(), "labels": kd.segment(model, picture(60, 80, seed=0), resize=(120, 90))}
for height, width in SIZES:
    for output, values in network(images(height, width).astype("float32")).items():
        results[f"{height}x{width}/{output}"] = sample(keras.ops.convert_to_numpy(values))
np.savez(path, **results)
