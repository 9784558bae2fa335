"""Trains a small DeepLabV3+ on a photograph labelled at a few spots, and writes the README's picture, docs/china.jpg.

    python docs/make_picture.py

takes a few minutes on two cores and downloads nothing. The photograph is china.jpg of scikit-learn, by danielbuechele,
CC BY 2.0. Its labels, docs/china_labels.png, were drawn by hand. The network starts from random weights and is trained with
the labels inside the spots alone; all other pixels have the label 255, "ignore". It is scored on the pixels outside the
spots. No released weights take part.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion, distance_transform_edt

import keras_deeplab as kd
from keras_deeplab import recipes

HERE = Path(__file__).parent
CLASSES = {"sky": (126, 192, 238), "tower": (196, 62, 53), "tree": (74, 140, 63), "water": (44, 95, 158)}
SPOT_RADIUS, SPOT_DISTANCE = 9, 64  # pixels
ROW = "deeplabv3plus_r18_cityscapes"  # whose layers the network has
NARROW = dict(base_channels=16, stem_channels=16, aspp_channels=32, low_level_channels=12, auxiliary_channels=16)
STEPS, BATCH, CROP, LEARNING_RATE = 600, 8, (128, 128), 0.005
RECIPE_CHANGES = dict(optimizer="AdamW", weight_decay=0.05)
GAP, FONT_SIZE = 16, 34  # pixels of the picture


def photograph():
    """The photograph, (427, 640, 3) uint8."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")


def spots(shape):
    """The pixels, (H, W) bool, of discs in a regular grid."""
    y, x = np.indices(shape) % SPOT_DISTANCE - SPOT_DISTANCE // 2
    return np.hypot(x, y) <= SPOT_RADIUS


def train(photo, labels, steps):
    """A narrow DeepLabV3+ that was trained for `steps` steps on one labelled picture."""
    import keras

    keras.utils.set_random_seed(0)
    recipe = recipes.find(ROW).replace(**RECIPE_CHANGES)
    model = kd.DeepLabV3Plus(
        len(CLASSES),
        backbone="r18",
        **NARROW,
        auxiliary_head=True,
        classes=tuple(CLASSES),
        palette=tuple(CLASSES.values()),
    )
    recipe.compile(model, steps, LEARNING_RATE)
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("images", photo), ("labels", labels)):
            Path(folder, name).mkdir()
            Image.fromarray(array).save(Path(folder, name, "china.png"))
        data = recipe.training_data(
            Path(folder, "images"),
            Path(folder, "labels"),
            batch=BATCH,
            crop=CROP,
            seed=0,
            reduce_zero_label=False,
            resize="own",
        )
        model.fit(data.take(steps), steps_per_epoch=steps, shuffle=False)
    return model


def panels(photo, found, classes, palette):
    """The photograph beside its label map, with the name of each class in its largest place.

    Args:
        photo: (H, W, 3) uint8.
        found: label map, (H, W) uint8.
        classes: a name for each class.
        palette: (R, G, B) for each class.

    Returns:
        `PIL.Image.Image`, RGB, (H, 2 W + GAP).
    """
    height, width = found.shape
    sheet = Image.new("RGB", (2 * width + GAP, height), "white")
    sheet.paste(Image.fromarray(photo), (0, 0))
    sheet.paste(kd.palette_image(found, palette).convert("RGB"), (width + GAP, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    look = dict(font=font, fill="white", stroke_width=3, stroke_fill="#222", anchor="mm")
    for number, name in enumerate(classes):
        if (place := widest_place(found == number)) is not None:
            row, column = place
            half = font.getlength(name.strip()) / 2
            column = min(max(column, half + 4), width - half - 4)  # the name stays on the map
            draw.text((width + GAP + column, row), name.strip(), **look)
    return sheet


def widest_place(mask):
    """(row, column) of the pixel that is farthest from the other classes; None where there are fewer than 2 % of them."""
    if mask.mean() < 0.02:
        return None
    return np.unravel_index(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)


def with_spots(photo, labels, inside):
    """The photograph with the labels that training sees, in their colours and with a white rim."""
    inside = inside & (labels < len(CLASSES))
    rim = inside & ~binary_erosion(inside, iterations=2)
    shown = photo.copy()
    shown[inside] = np.array(list(CLASSES.values()), np.uint8)[labels[inside]]
    shown[rim] = 255
    return shown


def main(to=HERE / "china.jpg", steps=STEPS):
    photo, labels = photograph(), np.array(Image.open(HERE / "china_labels.png"))
    inside = spots(labels.shape)
    model = train(photo, np.where(inside, labels, 255).astype(np.uint8), int(steps))
    found = kd.segment(model, photo)
    counts = kd.metrics.SegmentationScores(len(CLASSES))
    counts.update_state(np.where(inside, 255, labels)[None], found[None])
    panels(with_spots(photo, labels, inside), found, list(CLASSES), list(CLASSES.values())).save(
        to, quality=90, subsampling=0
    )
    scores = {name: round(100 * float(value), 1) for name, value in counts.result().items()}
    print(f"{to}: labels at {(inside & (labels < 255)).mean():.1%} of the pixels; outside of these: {scores}")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
