"""A process that segments a raster, which a test kills or whose memory it measures.

    raster_elsewhere.py RASTER TO

It prints its resident bytes when the network is ready, and its highest ones.
"""

import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
from support.narrow import drawn  # noqa: E402

import keras_deeplab as kd  # noqa: E402

ROW = "deeplabv3plus_r18-d8_512x512_80k_loveda"


def memory(name):
    """VmRSS (resident now) or VmHWM (the highest so far) of this process, in bytes."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    model = drawn(ROW)
    kd.segment(model, np.zeros((1024, 1024, 3), "uint8"))
    ready = memory("VmRSS")
    kd.segment_raster(model, sys.argv[1], sys.argv[2], progress=False)
    print(ready, memory("VmHWM"))
