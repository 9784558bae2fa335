"""A process that segments a folder, and notes each picture that the network gets: it is killed by a test.

    folder_elsewhere.py IMAGES TO LOG

Each line of LOG has the resident bytes of the process.
"""

import functools
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from support.narrow import drawn  # noqa: E402

import keras_deeplab as kd  # noqa: E402
from keras_deeplab.inference import folders  # noqa: E402

ROW = "deeplabv3plus_r18-d8_512x512_80k_loveda"
VIEWS_OF = folders.views_of


def model():
    """The narrow network, for pictures of their own size."""
    return drawn(ROW, protocol=kd.Protocol("whole"))


shared_model = functools.cache(model)  # one for the tests of a process; who changes it mends it


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    images, to, log = sys.argv[1:]

    def note_and_view(*arguments, **options):
        os.write(notes, f"{resident_bytes()}\n".encode())
        return VIEWS_OF(*arguments, **options)

    notes = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    folders.views_of = note_and_view
    result = folders.segment_folder(model(), images, to, progress=False)
    print(len(result.failed))
