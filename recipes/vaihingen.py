"""Recipe for ISPRS Vaihingen: tiles of 512x512, 6 classes; label 0 is ignored.

    keras-deeplab train deeplabv3plus_r50_vaihingen --data vaihingen --to run

Result on 4 V100 GPUs, 4 crops of 512x512 on each: 73.97 mIoU after 80,000 steps, 7.36 GB a device.
"""

from keras_deeplab.recipes.record import Recipe


def recipe(row):
    return Recipe(row, batch_per_device=4)
