"""Run by test_replicas in processes of their own: trains the narrow R-18 some steps and writes its weights.

python replicas.py one|two|hosts OUT.npz STEPS DTYPE [INDEX ADDRESS]: on one device, on two of a MirroredStrategy, or as one
of two JAX processes with keras.distribution.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
how, out, steps, dtype = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
if how == "hosts":
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_ENABLE_X64"] = "1"

import contextlib  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

if dtype == "float64":
    keras.config.set_floatx("float64")

from support.drawn import batches  # noqa: E402
from support.narrow import drawn  # noqa: E402

from keras_deeplab import recipes  # noqa: E402
from keras_deeplab.zoo.assign import to_torch  # noqa: E402

NAME = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
scope = contextlib.nullcontext()
if how == "two":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
if how == "hosts":
    keras.distribution.initialize(sys.argv[6], 2, int(sys.argv[5]))
    keras.distribution.set_distribution(keras.distribution.DataParallel())

with scope:
    model = drawn(NAME, auxiliary_head=True, dropout=0.0, dtype=dtype)
    recipes.find(NAME).compile(model)
# Drawn so that no activation lies within rounding of a ReLU's zero: with seed 0 one does, and takes 5 % of a change along.
images, labels = (np.concatenate(part) for part in batches(steps, 4, 64, 96, 19, seed=3))
data = tf.data.Dataset.from_tensor_slices((images, labels.astype("int32"))).batch(4, drop_remainder=True)
history = model.fit(data, shuffle=False, verbose=0)
if how != "hosts" or sys.argv[5] == "0":
    np.savez(out, loss=history.history["loss"], **to_torch(model))
