"""Recipe for LoveDA: 2522 aerial pictures of 1024x1024, 7 classes; label 0 is ignored.

    keras-deeplab train deeplabv3plus_r101_loveda --data loveda --to run

Result on 4 V100 GPUs, 4 crops of 512x512 on each: 51.47 mIoU after 80,000 steps, 10.84 GB a device.
"""

from keras_deeplab.recipes.record import Recipe


def recipe(row):
    return Recipe(row, resize_base=(2048, 512), batch_per_device=4)
