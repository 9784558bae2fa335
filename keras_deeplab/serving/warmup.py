"""Requests that TensorFlow Serving runs before it answers its first client: a TFRecord of PredictionLog messages.

The few fields needed are written by hand (tensorflow_serving/apis/prediction_log.proto and predict.proto), so that a warm
model does not depend on tensorflow-serving-api.
"""

import numpy as np
import tensorflow as tf

UNBOXED = (512, 1024)  # height, width in pixels of the picture for a model without a size


def write_warmup(path, requests):
    """Writes [(signature, {input: array})] as the file that TensorFlow Serving looks for."""
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, inputs in requests:
            file.write(prediction_log(signature, inputs))


def warmup_requests(protocol, size, max_pixels):
    """A request to every signature that runs the network, with one picture of the size that the model is for.

    Where pictures are resized, a smaller one does as well for the signatures whose response would be large.

    Returns:
        [(signature, {input: array})].
    """
    height, width = size or (protocol.resize and protocol.resize[::-1]) or protocol.crop or UNBOXED
    shrink = max(1.0, (height * width / max_pixels) ** 0.5)
    picture = drawn(max(1, int(height / shrink)), max(1, int(width / shrink)))
    small = picture if size else picture[: max(1, height // 4), : max(1, width // 4)]
    data = np.array([tf.io.encode_jpeg(picture, quality=90).numpy()], object)
    return [
        ("serving_default", {"image_bytes": data}),
        ("rest", {"image_bytes": data}),
        ("tensor", {"images": small[None]}),
        ("scores", {"images": small[None]}),
    ]


def drawn(height, width):
    """Soft colours, (height, width, 3) uint8, the same every time."""
    coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8).numpy()


def prediction_log(signature, inputs):
    """A PredictionLog of one PredictRequest: {input: array} to a signature."""
    request = message((1, message((3, signature.encode()))))  # model_spec.signature_name
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        request += message((2, message((1, name.encode()), (2, tensor))))  # inputs, a map
    return message((6, message((1, request))))  # predict_log.request


def message(*fields):
    """Fields (number, bytes) as a protocol buffer holds them: tag, length, bytes."""
    return b"".join(varint(number << 3 | 2) + varint(len(value)) + value for number, value in fields)


def varint(value):
    """Seven bits a byte, the lowest first, the eighth set on all but the last."""
    if value < 128:
        return bytes([value])
    return bytes([value & 127 | 128]) + varint(value >> 7)
