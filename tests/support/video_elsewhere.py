"""A process that writes the results of a video, and prints a line for each frame: it is killed by a test.

video_elsewhere.py VIDEO TO
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from support.folder_elsewhere import model  # noqa: E402

from keras_deeplab.inference import video  # noqa: E402
from keras_deeplab.inference.sources import find_pictures  # noqa: E402

if __name__ == "__main__":
    path, to = sys.argv[1:]
    video.Progress.add = lambda bar, failed=False: print(flush=True)
    options = {"multi_scale_flip": False, "resize": None}
    kinds, sources = ["grey", "overlay"], find_pictures([path])
    with video.written_videos(model(), sources, to, kinds, False, True, None, options, False) as (_, made):
        list(made)
