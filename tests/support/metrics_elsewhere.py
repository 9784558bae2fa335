"""Run by test_metrics in a process of its own: the metrics under JAX, PyTorch or a MirroredStrategy of two devices.

python metrics_elsewhere.py jax|torch|two (with KERAS_BACKEND set for the first two): prints "equal" if the counts of `fit` and
`evaluate` are those of numpy, exact across 2**31 pixels, and the scores those of the formulas on the host.
"""

import contextlib
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_deeplab.evaluation import metrics  # noqa: E402
from keras_deeplab.training.losses import PixelCrossEntropy  # noqa: E402

CLASSES, NEAR = 5, 2**31 - 3
scope = contextlib.nullcontext()
if sys.argv[1] == "two":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()

random = np.random.default_rng(0)
images = random.normal(size=(8, 17, 23, CLASSES)).astype("float32")
labels = random.choice([0, 1, 2, 4, 255], images.shape[:3]).astype("int32")  # 3 is in predictions only
with scope:
    model = keras.Sequential([keras.Input((17, 23, CLASSES)), keras.layers.Rescaling(1.0)])
    metric = metrics.SegmentationScores(CLASSES)
    model.compile(loss=PixelCrossEntropy(), metrics=[metric, metrics.MeanDice(CLASSES)])
found = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)

expected = np.zeros((CLASSES, CLASSES), np.int64)
counted = labels != 255
np.add.at(expected, (labels[counted], images.argmax(-1)[counted]), 1)
assert np.array_equal(metric.counts(), expected), (metric.counts(), expected)
for name, value in metrics.means(expected.astype(float)).items():
    assert name == "mFscore" or abs(found[name] - value) < 1e-6, (name, found, value)
if sys.argv[1] != "two":
    metric.words.assign(np.full((2, CLASSES, CLASSES), [[[NEAR % 2**30]], [[NEAR // 2**30]]]))
    metric.update_state(labels, images)
    assert np.array_equal(metric.counts(), expected + NEAR) and "32" in metric.words.dtype
print("equal")
