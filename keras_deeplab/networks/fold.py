"""A trained model in, the same model without norms out: y = conv(x) * s + b is one convolution with a bias."""

import itertools

import keras
import numpy as np

from keras_deeplab.networks.fast.folded import PooledConv2D
from keras_deeplab.networks.initializers import kernels_start_as_zeros


def fold_norms(model: keras.Model, dtype=None) -> keras.Model:
    """The same model for inference, batch norms folded into the convolutions.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`. It is left as it is.
        dtype: of the new model's weights and arithmetic; by default what `model` computes in. (Under mixed precision it
            would round its weights to that at each pass, and they would take twice the memory.)

    Returns:
        a model of the same class, protocol and classes without norms and auxiliary head; half as many layers to run.
        Its logits differ by rounding only. It cannot be trained further as the original would.
    """
    config = model.get_config()
    policy = keras.dtype_policies.get(config["dtype"])
    dtype = dtype or policy.compute_dtype
    if not config["norms"] and not config["auxiliary_head"] and policy.name == dtype:
        return model
    with kernels_start_as_zeros():
        folded = type(model).from_config({**config, "norms": False, "auxiliary_head": False, "dtype": dtype})
    refold(model, folded)
    return folded


def refold(model, folded):
    """Sets the weights of `folded`, made by `fold_norms(model)`, from those that `model` has now."""
    before = {id(layer.output): layer for layer in model.layers}  # what computed a tensor
    norms = {
        before[id(norm.input)].name: norm for norm in model.layers if isinstance(norm, keras.layers.BatchNormalization)
    }
    parts = [getattr(layer, "parts", [layer]) for layer in folded.layers]
    for layer in itertools.chain.from_iterable(parts):
        if not layer.weights:
            continue
        source = model.get_layer(layer.name)
        if layer.name not in norms:
            layer.set_weights(source.get_weights())
            continue
        kernel, bias = folded_weights(source, norms[layer.name])
        if isinstance(layer, PooledConv2D):
            layer.assign(kernel, bias)
        else:
            layer.kernel.assign(kernel)
            layer.bias.assign(bias)


def folded_weights(convolution, norm):
    """The kernel and the bias of one convolution that gives what a convolution without bias and a norm give."""
    kernel = keras.ops.convert_to_numpy(convolution.kernel)
    gamma, beta, mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(w), "float64")
        for w in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    factor = scale.astype(kernel.dtype)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):  # whose kernel is (height, width, channels, 1)
        factor = factor[:, None]
    return kernel * factor, beta - mean * scale
