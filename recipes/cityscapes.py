"""Recipe for Cityscapes: 2975 street pictures of 2048x1024, 19 classes.

    keras-deeplab train deeplabv3plus_r101_cityscapes --data cityscapes --to run

Result on 4 V100 GPUs, 2 crops of 512x1024 on each: 80.97 mIoU after 80,000 steps, 11.0 GB a device
in the row of 40,000 steps. Rows with 769x769 crops resize into a box that is one pixel larger. Rows of output stride 16 use
online hard example mining. The fp16 rows scale the loss by 512.
"""

from keras_deeplab.recipes.record import Recipe


def recipe(row):
    return Recipe(
        row,
        batch_per_device=2,
        ohem_min_kept=100_000 if row.output_stride == 16 else None,
        loss_scale=512.0 if row.fp16 else None,
    )
