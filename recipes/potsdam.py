"""ISPRS Potsdam, tiles of 512x512, 6 classes; label 0 is ignored.

    python -m recipes.train deeplabv3plus_r101_potsdam --data potsdam --to run

4 V100, 4 crops of 512x512 on each: 78.70 mIoU after 80,000 steps, 10.83 GB a device.
"""

from recipes.record import Recipe


def recipe(row):
    return Recipe(row, resize_base=(512, 512), batch_per_device=4)
