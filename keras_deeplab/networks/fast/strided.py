"""A strided 1x1 convolution whose gradient does not use TensorFlow's strided kernel: a map in, every second pixel out.

In TensorFlow 2.21 with oneDNN the gradient to the kernel of a 1x1 convolution of stride 2 is wrong for few channels: for less
than 8 on AVX2. On AVX512 it corrupts the heap at batch 1 (tests/support/strided_gradients.py has a minimal case, of 8
channels). The convolution uses only every second pixel, so its gradient is that of a matrix product of these pixels.
"""

# Graphs for inference use TensorFlow's own convolution from so many channels on: a bias and a ReLU can fuse with it.
CHANNELS_OF_A_RIGHT_GRADIENT = 16


def strided_pointwise_conv2d(x, kernel, strides):
    """A 1x1 convolution of every `strides`-th pixel, on TensorFlow.

    Args:
        x: (N, H, W, C).
        kernel: (1, 1, C, F).
        strides: (down, across).

    Returns:
        (N, ceil(H / down), ceil(W / across), F).
    """
    import tensorflow as tf

    down, across = strides
    options = dict(strides=[1, down, across, 1], padding="VALID")

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            x_gradient = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **options
            )
            pixels = tf.reshape(x[:, ::down, ::across], [-1, x.shape[-1]])
            kernel_gradient = tf.matmul(pixels, tf.reshape(upstream, [-1, kernel.shape[-1]]), transpose_a=True)
            return x_gradient, tf.reshape(kernel_gradient, kernel.shape)

        return tf.nn.conv2d(x, kernel, **options), gradient

    # As a tensor: for a variable TensorFlow would require a gradient with another signature.
    return convolution(x, tf.convert_to_tensor(kernel))
