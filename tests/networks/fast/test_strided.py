"""The strided 1x1 convolution gives what its definition gives, and its gradient corrupts no memory."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support import SUPPORT

from keras_deeplab.networks.fast.convolution import Purpose, pointwise_conv2d, purpose

random = np.random.default_rng(0)
SCRIPT = SUPPORT / "strided_gradients.py"


@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("size", [(8, 11), (7, 6), (1, 1)])
@pytest.mark.parametrize("channels", [1, 5, 8, 17])
@pytest.mark.parametrize("graph_is_for", [Purpose.TRAINING, Purpose.INFERENCE, Purpose.ANY_PROCESSOR])
def test_it_is_a_product_of_some_pixels_and_so_is_its_gradient(size, strides, channels, graph_is_for):
    x = tf.constant(random.standard_normal((2, *size, channels)), tf.float32)
    kernel = tf.constant(random.standard_normal((1, 1, channels, 4)), tf.float32)
    results = []
    for convolve in (pointwise_conv2d, lambda x, kernel, s: x[:, :: s[0], :: s[1]] @ kernel[0, 0]):
        with tf.GradientTape() as tape, purpose(graph_is_for):
            tape.watch([x, kernel])
            y = convolve(x, kernel, strides)
            loss = tf.reduce_sum(y**3)
        results.append([y, *tape.gradient(loss, [x, kernel])])
    for result, expected in zip(*results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-3)


def test_its_gradient_corrupts_no_memory():
    process = subprocess.run([sys.executable, SCRIPT, "layer"], capture_output=True, text=True, check=False)
    assert process.stdout.endswith("survived\n"), process.stderr[-500:]
