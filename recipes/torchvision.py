"""Recipe of torchvision's models, from its reference training script (references/segmentation) and the commands in its README.

    keras-deeplab train deeplabv3_resnet50_coco --images images --labels labels --to run

The script trains for 30 epochs on the pictures of COCO whose objects of VOC's classes cover more than 1000 pixels. How many
these are is not published; the steps are those of 92,500 pictures. The augmentation differs in two things: the script resizes
pictures by Pillow, here OpenCV's values are taken; and it pads small pictures with black, here with the mean colour.
"""

from keras_deeplab.recipes.record import Recipe

DEVICES, PICTURES_PER_DEVICE, EPOCHS, PICTURES = 8, 4, 30, 92_500
# {backbone: (learning rate, weight decay)}
RATES = {"resnet50": (0.02, 1e-4), "resnet101": (0.02, 1e-4), "mobilenet_v3_large": (0.01, 1e-6)}


def recipe(row):
    learning_rate, weight_decay = RATES[row.backbone]
    return Recipe(
        row,
        batch_per_device=PICTURES_PER_DEVICE,
        devices=DEVICES,
        cat_max_ratio=1.0,
        photometric=False,
        learning_rate=learning_rate,
        end_learning_rate=0.0,
        reaches_end=False,
        weight_decay=weight_decay,
        avg_non_ignore=True,
        auxiliary_weight=0.5,
        auxiliary_multiplier=10.0,
        iterations=EPOCHS * PICTURES // (DEVICES * PICTURES_PER_DEVICE),
    )
