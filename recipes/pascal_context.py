"""Pascal Context, 4998 pictures, 60 classes.

    python -m recipes.train deeplabv3plus_r101_pascal_context --data pascal_context --to run

4 V100, 4 crops of 480x480 on each: 47.30 mIoU after 40,000 steps.
"""

from recipes.record import Recipe


def recipe(row):
    return Recipe(row, resize_base=(520, 520), batch_per_device=4, learning_rate=0.004, weight_decay=1e-4)
