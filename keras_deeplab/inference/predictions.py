"""Label maps of many pictures: the next ones are read while the network runs, on one device or several."""

import contextlib
import queue
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import keras
import tensorflow as tf

from keras_deeplab.inference.segment import network_of, segment


def _copies(model, devices):
    """[(device or None, model)]: the model itself for one device, a copy of its weights on each of several."""
    folded = network_of(model).folded  # once, not for every picture
    if devices is None and keras.backend.backend() == "tensorflow":
        gpus = tf.config.list_logical_devices("GPU")
        devices = [gpu.name for gpu in gpus] if len(gpus) > 1 else None
    if devices is None:
        return [(None, folded)]
    if keras.backend.backend() != "tensorflow" or not devices:
        raise ValueError(f"devices is a list of TensorFlow's devices, on its backend. Received: {devices!r}.")
    copies = []
    for device in devices:
        with tf.device(device):
            copies.append((device, type(folded).from_config(folded.get_config())))
            copies[-1][1].set_weights(folded.get_weights())
    return copies


def predictions(model, load, items, devices=None, **options):
    """Label maps of pictures, the next of which are read meanwhile.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        load: gives (name, picture (H, W, 3) uint8, anything) of an item; called on a thread.
        items: what to call it with.
        devices: as for `evaluate`.
        options: of `segment`.

    Yields:
        (name, anything, label map (H, W) uint8) of each item, in order.
    """
    copies, free = _copies(model, devices), queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def predict(item):
        name, picture, passed = item
        device, network = copy = free.get()
        try:
            with tf.device(device) if device else contextlib.nullcontext():
                return name, passed, segment(network, picture, **options)
        finally:
            free.put(copy)

    with contextlib.closing(ahead(load, items, 1)) as loaded:
        if len(copies) == 1:
            yield from map(predict, loaded)
        else:
            with contextlib.closing(ahead(predict, loaded, len(copies))) as found:
                yield from found


def ahead(function, items, threads):
    """`function` of each item, in order, worked out on threads a little before it is asked for."""
    waiting = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
