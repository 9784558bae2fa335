"""What a run is about to do, in; the lines that are printed before its first step, out."""

import numpy as np

from keras_deeplab.catalog.protocol import box_text
from keras_deeplab.pictures.resize import fit_in_box, fit_rounded_down

FIRST_STEP = "The first step compiles the network, which takes about a minute. Nothing is shown meanwhile."
SHOWN_CLASSES = 12  # at most, the most frequent first


def sizes_text(count, sizes, scanned):
    """ "8 of 80x60", or "2975, from 640x480 to 6000x4000, most often 2048x1024".

    Args:
        count: number of pictures.
        sizes: {(width, height): number of pictures} of those that were looked at.
        scanned: how many those are.
    """
    if not sizes:
        return str(count)
    smallest, largest = (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
    if smallest == largest:
        text = f"{count} of {_size(smallest)}"
    else:
        often = max(sizes, key=sizes.get)
        text = f"{count}, from {_size(smallest)} to {_size(largest)}, most often {_size(often)}"
    return text if scanned >= count else f"{text} (of {scanned} looked at)"


def classes_text(names, pixels):
    """The classes with their shares of the labelled pixels, the most frequent first; without `pixels` their names."""
    if pixels is None:
        shown = [name.strip() for name in names]
    else:
        shares = 100 * pixels / max(1, pixels.sum())
        shown = [f"{names[i].strip()} {shares[i]:.3g} %" for i in np.argsort(-pixels, kind="stable")]
    more = f", and {len(shown) - SHOWN_CLASSES} more" if len(shown) > SHOWN_CLASSES else ""
    return f"{len(shown)}: {', '.join(shown[:SHOWN_CLASSES])}{more}"


def resize_text(box, ratio, sizes, antialias=False):
    """What becomes of the pictures: "their own size, times 0.5 to 2", or the box and what a picture becomes in it.

    Args:
        box: (long, short) side in pixels, or None for the pictures' own size.
        ratio: (lowest, highest) random factor, or None.
        sizes: as for `sizes_text`.
        antialias: as of `Protocol`. Default False.
    """
    text = "own size" if box is None else box_text(box)
    if box is not None and sizes:
        often = max(sizes, key=sizes.get)
        fit = fit_rounded_down if antialias else fit_in_box
        becomes = tuple(int(side) for side in fit(often[1], often[0], max(box), min(box)))[::-1]
        text += f", where {_size(often)} " + ("keeps its size" if becomes == often else f"becomes {_size(becomes)}")
    return text if ratio is None else f"{text}; then times {ratio[0]:g} to {ratio[1]:g} at random"


def protocol_text(protocol):
    """How the model is tested, in words."""
    size = "at its own size" if protocol.resize is None else f"resized {box_text(protocol.resize)}"
    if protocol.mode == "whole":
        return f"whole picture, {size}"
    return f"sliding window of {protocol.crop[0]}x{protocol.crop[1]} (height x width), picture {size}"


def devices_text(devices):
    """The devices of a `keras_deeplab.training.devices.Devices`, in words."""
    import keras

    if devices.strategy is not None:
        names = [name.rpartition("device:")[2] for name in devices.strategy.extended.worker_devices]
    else:
        names = keras.distribution.list_devices()
        names = names if keras.distribution.distribution() else names[:1]
    hosts = f", on {devices.process[1]} hosts" if devices.process[1] > 1 else ""
    return ", ".join(name.upper() for name in names) + hosts


def print_facts(facts):
    """Prints (name, text) in two columns; facts whose text is empty are left out."""
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        if text:
            print(f"{name.ljust(width)}  {text}", flush=True)


def _size(size):
    return f"{size[0]}x{size[1]}"
