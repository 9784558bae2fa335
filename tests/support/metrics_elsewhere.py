"""The name of a case in, "equal" out if the metrics are right there. test_metrics runs it in another process.

python metrics_elsewhere.py jax|torch|two: on JAX or PyTorch (KERAS_BACKEND must be set), or with a MirroredStrategy of two
devices. `model.evaluate` must count as numpy does, beyond 2**31 pixels too, and give the scores that numpy gives.
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

CLASSES = 5
NEARLY_2_31 = 2**31 - 3  # pixels; adding the test's pixels goes beyond int32
scope = contextlib.nullcontext()
if sys.argv[1] == "two":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()

random = np.random.default_rng(0)
images = random.normal(size=(8, 17, 23, CLASSES)).astype("float32")
labels = random.choice([0, 1, 2, 4, 255], images.shape[:3]).astype("int32")  # class 3 is predicted but never labelled
with scope:
    model = keras.Sequential([keras.Input((17, 23, CLASSES)), keras.layers.Rescaling(1.0)])
    metric = metrics.SegmentationScores(CLASSES)
    model.compile(loss=PixelCrossEntropy(), metrics=[metric, metrics.MeanDice(CLASSES)])
result = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)

expected = np.zeros((CLASSES, CLASSES), np.int64)
counted = labels != 255
np.add.at(expected, (labels[counted], images.argmax(-1)[counted]), 1)
assert np.array_equal(metric.counts(), expected), (metric.counts(), expected)
for name, value in metrics.means(expected.astype(float)).items():
    assert name == "mFscore" or abs(result[name] - value) < 1e-6, (name, result, value)
if sys.argv[1] != "two":
    metric.words.assign(np.full((2, CLASSES, CLASSES), [[[NEARLY_2_31 % 2**30]], [[NEARLY_2_31 // 2**30]]]))
    metric.update_state(labels, images)
    assert np.array_equal(metric.counts(), expected + NEARLY_2_31) and "32" in metric.words.dtype
print("equal")
