"""A trained model in, the same model without norms out: y = conv(x) * s + b is one convolution with a bias."""

import itertools

import keras
import numpy as np

from keras_deeplab.networks.layers import PooledConv2D, weights_follow


def fold_norms(model, dtype=None):
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
    if config["folded"] and not config["auxiliary_head"] and policy.name == dtype:
        return model
    with weights_follow():
        folded = type(model).from_config({**config, "folded": True, "auxiliary_head": False, "dtype": dtype})
    refold(model, folded)
    return folded


def refold(model, folded):
    """Sets the weights of `folded`, made by `fold_norms(model)`, from those that `model` has now."""
    norms = {
        norm.input._keras_history.operation.name: norm
        for norm in model.layers
        if isinstance(norm, keras.layers.BatchNormalization)
    }
    parts = [getattr(layer, "parts", [layer]) for layer in folded.layers]
    for layer in itertools.chain.from_iterable(parts):
        if not layer.weights:
            continue
        source = model.get_layer(layer.name)
        if layer.name not in norms:
            layer.set_weights(source.get_weights())
            continue
        norm, kernel = norms[layer.name], keras.ops.convert_to_numpy(source.kernel)
        gamma, beta, mean, variance = (
            np.asarray(keras.ops.convert_to_numpy(w), "float64")
            for w in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        )
        scale = gamma / np.sqrt(variance + norm.epsilon)
        depthwise = kernel.shape[-1] != len(scale)  # depthwise kernels are (height, width, channels, 1)
        kernel = kernel * scale.astype(kernel.dtype)[:, None] if depthwise else kernel * scale.astype(kernel.dtype)
        bias = beta - mean * scale
        if isinstance(layer, PooledConv2D):
            layer.assign(kernel, bias)
        else:
            layer.kernel.assign(kernel)
            layer.bias.assign(bias)
