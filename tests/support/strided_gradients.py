"""A kind of strided 1x1 convolution in, "survived" out if its gradients do not crash. test_strided runs it in another process.

python strided_gradients.py layer|tensorflow: the gradients of our layer, or of TensorFlow's own operation.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_deeplab.networks.layers import AtrousConv2D  # noqa: E402

generator = np.random.default_rng(0)


def check_gradients(convolve, kernel_shape, x):
    """Computes the gradients of a convolution by a random kernel, and asserts that they are finite."""
    kernel = tf.random.normal(kernel_shape)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        loss = tf.reduce_sum(convolve(x, kernel) ** 2)
    assert all(np.isfinite(g.numpy()).all() for g in tape.gradient(loss, [x, kernel]))


if sys.argv[1] == "tensorflow":  # a minimal example for a bug report to TensorFlow
    for _ in range(60):
        check_gradients(
            lambda x, kernel: tf.nn.conv2d(x, kernel, 2, "SAME"), (1, 1, 8, 16), tf.random.normal((1, 12, 16, 8))
        )
else:
    for _ in range(400):
        n, channels, filters = (
            1 + generator.integers(2),
            generator.choice([1, 3, 8, 16]),
            generator.choice([4, 8, 16, 32]),
        )
        layer = AtrousConv2D(filters, 1, strides=2, use_bias=False)
        x = tf.random.normal((n, *generator.integers(3, 40, 2), channels))
        check_gradients(layer.convolution_op, (1, 1, channels, filters), x)
print("survived")
