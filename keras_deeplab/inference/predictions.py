"""A model and many pictures in, their label maps out; pictures are read while the network runs on one or more devices."""

import contextlib
import queue
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import keras
import tensorflow as tf

from keras_deeplab.inference.segment import network_of, segment


def _copies(model, devices):
    """The networks that share the pictures, without batch norms: a list of (device name, or None for the default, model).

    On several devices each has a copy of the weights.
    """
    folded = network_of(model, calls_again=True).folded  # batch norms are folded here, once for all pictures
    if devices is None and keras.backend.backend() == "tensorflow":
        gpus = tf.config.list_logical_devices("GPU")
        devices = [gpu.name for gpu in gpus] if len(gpus) > 1 else None
    if devices is None:
        return [(None, folded)]
    if keras.backend.backend() != "tensorflow" or not devices:
        raise ValueError(
            "devices must be a list of TensorFlow device names, not empty, and Keras must run on TensorFlow. "
            f"Received: {devices!r} on {keras.backend.backend()}."
        )
    copies = []
    for device in devices:
        with tf.device(device):
            network = type(folded).from_config(folded.get_config())
            network.set_weights(folded.get_weights())
            copies.append((device, network))
    return copies


def predictions(model, load, items, devices=None, **options):
    """Segments pictures one by one, and reads the next ones meanwhile.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        load: a function from an item to (name, picture (H, W, 3) uint8, extra). It is called on another thread. `extra` is
            any value, and is passed on.
        items: an iterable of what `load` takes.
        devices: as for `evaluate`.
        options: of `segment`.

    Yields:
        (name, extra, label map (H, W) uint8) of each item, in order.

    Raises:
        ValueError: for `devices` that cannot be used, and as `segment` does. Errors of `load` come through.
    """

    def predict(network, item):
        name, picture, extra = item
        return name, extra, segment(network, picture, **options)

    with contextlib.closing(prefetch_map(load, items, threads=1)) as loaded:
        yield from on_devices(model, predict, loaded, devices)


def on_devices(model, function, items, devices=None):
    """`function(network, item)` of each item, in order, on one or more devices. `network` is a model without batch norms.

    Args:
        model: a `DeepLabV3` or `DeepLabV3Plus`.
        function: what to compute.
        items: an iterable.
        devices: as for `evaluate`.

    Raises:
        ValueError: for `devices` that cannot be used. Errors of `function` come through.
    """
    copies, idle = _copies(model, devices), queue.SimpleQueue()
    for copy in copies:
        idle.put(copy)

    def compute(item):
        device, network = copy = idle.get()
        try:
            with tf.device(device) if device else contextlib.nullcontext():
                return function(network, item)
        finally:
            idle.put(copy)

    if len(copies) == 1:
        yield from map(compute, items)
    else:
        with contextlib.closing(prefetch_map(compute, items, threads=len(copies))) as computed:
            yield from computed


def prefetch_map(function, items, threads):
    """`map(function, items)`, computed on threads, up to 2 * `threads` items before the caller takes them.

    An error of `function` is raised when its item is taken. Items that have not started are then cancelled.
    """
    futures = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) > 2 * threads:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()
