"""Recipe of the models of DeepLab's authors, from their instructions (tensorflow/models, research/deeplab, g3doc).

    keras-deeplab train xception65_coco_voc_trainaug --data voc12aug --to run

A step computes what their code does (train.py): the loss is the mean over the labelled pixels, weight decay counts kernels
alone and not those of depthwise convolutions, the bias of the classifier has twice the learning rate, and the rate would be 0
one step after the last. Their "slow start" and their factor for the last layers are off in the instructions, and here.

In the instructions the random ratio is one of 0.5, 0.75, ... 2; here it is any in between. For how many steps the released
models were trained is not published; the steps are those of the instructions.
"""

from keras_deeplab.recipes.record import Recipe

STEPS = {"voc12aug": 30_000, "cityscapes": 90_000, "ade20k": 150_000}


def recipe(row):
    return Recipe(
        row,
        batch_per_device=4,
        cat_max_ratio=1.0,
        learning_rate=0.007,
        end_learning_rate=0.0,
        weight_decay=4e-5,
        decay_kernels_only=True,
        bias_multiplier=2.0,
        avg_non_ignore=True,
        reaches_end=False,
        auxiliary_head=False,
        iterations=STEPS[row.dataset],
    )
