"""Recipe for Mapillary Vistas 1.2: 18,000 street pictures, 65 classes.

    keras-deeplab train deeplabv3plus_r50_mapillary --data mapillary --to run

Result on 4 GPUs, 2 crops of 512x1024 on each: 47.35 mIoU after 300,000 steps, 24.04 GB a device. The row's name says
1280x1280, which is not the size of its training crops.
"""

from keras_deeplab.recipes.record import Recipe


def recipe(row):
    return Recipe(
        row,
        batch_per_device=2,
        optimizer="AdamW",
        learning_rate=1e-4,
        end_learning_rate=0.0,
        weight_decay=1e-4,
        backbone_multiplier=0.1,
        clip_norm=0.01,
    )
