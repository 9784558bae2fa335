"""Recipe for Pascal Context without its background: 59 classes; label 0 is ignored.

    keras-deeplab train deeplabv3plus_r101_pascal_context_59 --data pascal_context_59 --to run

Result on 4 V100 GPUs, 4 crops of 480x480 on each: 53.20 mIoU after 80,000 steps.
"""

from keras_deeplab.recipes.record import Recipe


def recipe(row):
    return Recipe(row, batch_per_device=4, learning_rate=0.004, weight_decay=1e-4)
