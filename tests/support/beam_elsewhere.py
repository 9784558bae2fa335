"""A process that drives Apache Beam over pictures: it, or one of its workers, is killed by a test.

beam_elsewhere.py SAVED_MODEL IMAGES TO OPTION...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import keras_deeplab as kd  # noqa: E402

if __name__ == "__main__":
    saved_model, images, to, *options = sys.argv[1:]
    result = kd.segment_with_beam(saved_model, images, to, beam_options=options)
    print(f"made {result.made}, skipped {result.skipped}, failed {len(result.failed)}")
