"""A number of steps in, the weights of a narrow ResNet-18 trained for them out. test_replicas runs it in other processes.

python replicas.py one|two|hosts OUT.npz STEPS DTYPE [INDEX ADDRESS]: trains on one device, on two devices of a
MirroredStrategy, or as process number INDEX of two JAX processes with keras.distribution.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
devices, path, steps, dtype = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
if devices == "hosts":
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
if devices == "two":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
if devices == "hosts":
    keras.distribution.initialize(sys.argv[6], 2, int(sys.argv[5]))
    keras.distribution.set_distribution(keras.distribution.DataParallel())

with scope:
    model = drawn(NAME, auxiliary_head=True, dropout=0.0, dtype=dtype)
    recipes.find(NAME).compile(model)
# Seed 3: no activation is so close to 0 that rounding decides whether ReLU passes it. With seed 0 one is, and a weight's
# change differs by 5 %.
images, labels = (np.concatenate(part) for part in batches(steps, 4, 64, 96, 19, seed=3))
data = tf.data.Dataset.from_tensor_slices((images, labels.astype("int32"))).batch(4, drop_remainder=True)
history = model.fit(data, shuffle=False, verbose=0)
if devices != "hosts" or sys.argv[5] == "0":
    np.savez(path, loss=history.history["loss"], **to_torch(model))
