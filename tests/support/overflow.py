"""The name of an optimizer in, the effect of an overflow on the weights out. test_replicas runs it in another process.

python overflow.py ours|keras: makes one float16 step whose gradients overflow on the second of two replicas only. It prints
whether all weights are finite and whether any has changed. Norms are frozen, because synchronised norms carry an overflow to
all replicas.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from support.drawn import batches  # noqa: E402
from support.narrow import drawn  # noqa: E402

from keras_deeplab.training import losses, optimizers  # noqa: E402

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
optimizer_class = optimizers.LossScaleOptimizer if sys.argv[1] == "ours" else keras.optimizers.LossScaleOptimizer
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = drawn("deeplabv3plus_r18-d8_512x1024_80k_cityscapes", dropout=0.0, dtype="mixed_float16")
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    model.compile(optimizer_class(optimizers.SGD(0.01), initial_scale=2.0**60), loss=losses.PixelCrossEntropy())
images, labels = (part[0] for part in batches(1, 4, 64, 96, 19))
labels[:2] = 255  # the labels of the first replica's pictures are ignored, so its gradients are zero
before = model.get_weights()
model.fit(tf.data.Dataset.from_tensors((images, labels.astype("int32"))), verbose=0)
after = model.get_weights()
print("finite", all(np.isfinite(w).all() for w in after), "changed", not all(map(np.array_equal, before, after)))
