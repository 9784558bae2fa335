"""Recipe for Pascal Context: 4998 pictures, 60 classes.

    keras-deeplab train deeplabv3plus_r101_pascal_context --data pascal_context --to run

Result on 4 V100 GPUs, 4 crops of 480x480 on each: 47.30 mIoU after 40,000 steps.
"""

from keras_deeplab.recipes.record import Recipe


def recipe(row):
    return Recipe(row, batch_per_device=4, learning_rate=0.004, weight_decay=1e-4)
