"""Signatures and arrays in, a warm-up file out: requests that TensorFlow Serving runs before it answers its first client.

The file is a TFRecord of PredictionLog messages (tensorflow_serving/apis/prediction_log.proto and predict.proto). Their few
fields are encoded here, so that the package tensorflow-serving-api is not needed.
"""

import numpy as np
import tensorflow as tf

DEFAULT_SIZE = (512, 1024)  # height, width in pixels, of the picture for a model with neither size, box nor crop


def write_warmup(path, requests):
    """Writes the requests [(signature, {input: array})] to the file `path`."""
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, inputs in requests:
            file.write(prediction_log(signature, inputs))


def warmup_requests(protocol, size, max_pixels):
    """One request to each signature that runs the network, with a picture of the size that the model is made for.

    `tensor` and `scores` get a picture of a quarter of the sides, unless the model takes one size only: their responses
    would be large.

    Args:
        protocol: the model's test protocol.
        size, max_pixels: as for `export_saved_model`.

    Returns:
        [(signature, {input: array})].
    """
    height, width = size or protocol.box or protocol.crop or DEFAULT_SIZE
    shrink = max(1.0, (height * width / max_pixels) ** 0.5)
    picture = synthetic_picture(max(1, int(height / shrink)), max(1, int(width / shrink)))
    small = picture if size else picture[: max(1, height // 4), : max(1, width // 4)]
    files = np.array([tf.io.encode_jpeg(picture, quality=90).numpy()], object)
    return [
        ("serving_default", {"image_bytes": files}),
        ("rest", {"image_bytes": files}),
        ("tensor", {"images": small[None]}),
        ("scores", {"images": small[None]}),
        *([("single", {"images": small[None]})] if size else []),
    ]


def synthetic_picture(height, width):
    """A picture of soft colours, (height, width, 3) uint8, the same in every call."""
    coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8).numpy()


def prediction_log(signature, inputs):
    """The bytes of a PredictionLog with one PredictRequest: the inputs {input: array} for a signature."""
    request = message((1, message((3, signature.encode()))))  # model_spec.signature_name
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        request += message((2, message((1, name.encode()), (2, tensor))))  # inputs, a map
    return message((6, message((1, request))))  # predict_log.request


def message(*fields):
    """Encodes fields (number, bytes) as a protocol buffer: for each field its tag, its length and the bytes."""
    return b"".join(varint(number << 3 | 2) + varint(len(value)) + value for number, value in fields)


def varint(value):
    """A number as a varint of protocol buffers: seven bits a byte, lowest first; all bytes but the last have bit 8 set."""
    if value < 128:
        return bytes([value])
    return bytes([value & 127 | 128]) + varint(value >> 7)
