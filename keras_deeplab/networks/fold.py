"""A trained model in, the same model with its batch norms folded into the convolutions out.

A norm in inference scales and shifts each channel. conv(x) * scale + shift is one convolution with a bias.
"""

import itertools

import keras
import numpy as np

from keras_deeplab.networks.fast.folded import PooledConv2D
from keras_deeplab.networks.initializers import kernels_start_as_zeros


def fold_norms(model: keras.Model, dtype=None) -> keras.Model:
    """The same model for inference, with its batch norms folded into the convolutions.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`. It is not changed.
        dtype: dtype or dtype policy of the new model. Default the dtype that `model` computes in. (With a mixed policy, the
            weights would take twice the memory, and each pass would round them.)

    Returns:
        a model of the same class, protocol and class names without norms and auxiliary head. It runs half as many layers.
        Its logits differ from those of `model` by rounding only. Further training would not do what training `model` does.
        If `model` already is such a model of this dtype, it is `model` itself.
    """
    config = model.get_config()
    policy = keras.dtype_policies.get(config["dtype"])
    dtype = dtype or policy.compute_dtype
    if not config["norms"] and not config["auxiliary_head"] and policy.name == dtype:
        return model
    with kernels_start_as_zeros():
        folded = type(model).from_config(
            {**config, "norms": False, "auxiliary_head": False, "frozen": (), "dtype": dtype}
        )
    refold(model, folded)
    return folded


def refold(model, folded):
    """Sets the weights of `folded`, which is `fold_norms(model)`, from the present weights of `model`."""
    sources = {layer.name: layer for layer in model.layers}  # `get_layer` would search all layers for each one
    producers = {id(layer.output): layer for layer in sources.values()}  # {tensor: the layer that computes it}
    norms = {  # {name of a convolution: the norm that follows}
        producers[id(norm.input)].name: norm
        for norm in sources.values()
        if isinstance(norm, keras.layers.BatchNormalization)
    }
    layers = [getattr(layer, "parts", [layer]) for layer in folded.layers]  # a separable layer has two parts
    for layer in itertools.chain.from_iterable(layers):
        if not layer.weights:
            continue
        source = sources[layer.name]
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
    """The kernel and the bias of one convolution that gives the same as a convolution and its norm."""
    kernel = keras.ops.convert_to_numpy(convolution.kernel)
    gamma, beta, mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(w), "float64")
        for w in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    factor = scale.astype(kernel.dtype)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):  # its kernel is (height, width, channels, 1)
        factor = factor[:, None]
    if convolution.use_bias:
        mean = mean - keras.ops.convert_to_numpy(convolution.bias)
    return kernel * factor, beta - mean * scale
