"""The whole way in two minutes, without a download: draws labelled scenes, learns them, scores, exports, serves, shows.

    keras-deeplab quickstart --to quickstart

A narrow DeepLabV3+ is trained from random weights by a released row's recipe, on two devices: halves of this processor. It
is to reach 70 mIoU on scenes that it has not seen, where telling the classes by their mean colours reaches about 4. Ends
non-zero if it does not, or if the SavedModel gives other labels than `segment`: then something is wrong with the installation.
"""

from pathlib import Path

import numpy as np

from keras_deeplab import recipes
from keras_deeplab.commands import command_line
from keras_deeplab.recipes.scenes import CLASSES, HEIGHT, WIDTH, page, read_scenes, write_scenes

ROW = "deeplabv3plus_r18_cityscapes"
NARROW = dict(base_channels=16, stem_channels=16, aspp_channels=32, low_level_channels=12, auxiliary_channels=16)
SCENES = {"train": 200, "held_out": 40}
STEPS, BATCH, CROP, LEARNING_RATE = 300, 16, (96, 96), 0.012
SMALL = dict(  # what the row's recipe changes for small pictures and few steps from random weights
    resize_base=(WIDTH, HEIGHT), resize_ratio=(1.0, 1.5), optimizer="AdamW", weight_decay=0.05
)
ENOUGH = 70.0  # mIoU


def main(argv):
    arguments = command_line.parser("quickstart", __doc__.splitlines()[0], row=False)
    arguments.add_argument(
        "--to", metavar="DIR", default="quickstart", help="folder for scenes, models and the picture"
    )
    arguments.add_argument("--seed", type=int, default=0, help="of every random number")
    arguments.add_argument(
        "--steps",
        metavar="N",
        type=command_line.positive,
        default=STEPS,
        help="fewer are faster, and then no score is asked for",
    )
    options = arguments.parse_args(argv)
    to = Path(options.to)

    strategy = two_devices()
    import keras

    from keras_deeplab.evaluation.evaluate import evaluate
    from keras_deeplab.inference.segment import segment
    from keras_deeplab.serving.export import export_saved_model

    keras.utils.set_random_seed(options.seed)
    folders = [to / "scenes" / name for name in SCENES]
    for number, (folder, count) in enumerate(zip(folders, SCENES.values(), strict=True)):
        write_scenes(folder, count, seed=(options.seed, number))
        print(f"{count} scenes: {folder}")
    seen, held_out = ((folder / "images", folder / "labels") for folder in folders)

    print(f"Training a narrow DeepLabV3+, {options.steps} steps on two devices")
    with strategy.scope():
        model = train(strategy, seen, options.steps, options.seed)
    model.save(to / "model.keras")

    print("Scoring on the held-out scenes")
    found = evaluate(model, *held_out)
    by_colour = nearest_mean_colour(seen, held_out)

    print("Exporting, and asking the SavedModel")
    export_saved_model(model, to / "saved_model")
    pictures = sorted(held_out[0].iterdir())
    predicted = segment(model, pictures)
    differing = int(np.sum(np.stack(predicted) != np.stack(served(to / "saved_model", pictures))))
    caption = f"Held-out mIoU {found['mIoU']:.1f}; by the nearest mean colour of a class {by_colour['mIoU']:.1f}"
    page(*read_scenes(held_out), predicted, caption).save(to / "quickstart.png")
    report(found, by_colour, differing, to)
    if differing:
        raise ValueError(f"The SavedModel labels {differing} pixels of the held-out scenes otherwise than `segment`.")
    if options.steps >= STEPS and found["mIoU"] < ENOUGH:
        raise ValueError(f"The quickstart reaches {ENOUGH:g} mIoU. Received: {found['mIoU']:.2f}.")


def two_devices():
    """A strategy over two halves of the processor; TensorFlow must not have been used before."""
    import keras
    import tensorflow as tf

    from keras_deeplab.training.devices import processors

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "MirroredStrategy and SavedModel are TensorFlow's: run the quickstart with KERAS_BACKEND=tensorflow. "
            f"Received: {keras.backend.backend()}."
        )
    tf.config.set_visible_devices([], "GPU")  # the same result on every machine
    return processors(2)


def train(strategy, folders, steps, seed):
    """A narrow network after `steps` steps on the scenes in `folders` (images, labels)."""
    from keras_deeplab.training.devices import shared_by_processors
    from keras_deeplab.zoo.models import DeepLabV3Plus

    recipe = recipes.find(ROW).replace(**SMALL)
    model = DeepLabV3Plus(
        len(CLASSES),
        backbone="r18",
        **NARROW,
        auxiliary_head=True,
        classes=tuple(CLASSES),
        palette=tuple(CLASSES.values()),
    )
    recipe.compile(model, steps, LEARNING_RATE)
    data = recipe.training_data(*folders, batch=BATCH, crop=CROP, seed=seed, reduce_zero_label=False)
    model.fit(shared_by_processors(strategy, data.take(steps)), steps_per_epoch=steps, shuffle=False)
    return model


def nearest_mean_colour(seen, held_out):
    """The scores of the plainest idea: a pixel has the class whose mean colour in the training scenes is nearest."""
    from keras_deeplab.evaluation.evaluate import confusion, scores

    images, labels = read_scenes(seen)
    means = np.array([images[labels == i].mean(0) for i in range(len(CLASSES))])
    images, labels = read_scenes(held_out)
    nearest = np.argmin([np.square(images - mean).sum(-1) for mean in means], axis=0)
    return scores(confusion(labels, nearest, len(CLASSES)))


def served(folder, pictures):
    """The label maps that a SavedModel gives for the bytes of picture files."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answers = serve(image_bytes=tf.constant([picture.read_bytes() for picture in pictures]))["label_png"]
    return [tf.io.decode_png(answer).numpy()[..., 0] for answer in answers]


def report(found, by_colour, differing, to):
    """Prints the scores of both and where everything is."""
    print()
    rows = [[scores["IoU"] for scores in pair] for pair in zip(found["per_class"], by_colour["per_class"], strict=True)]
    command_line.print_table(
        [
            ("IoU on held-out scenes", "DeepLabV3+", "nearest mean colour"),
            *(
                (name, *("-" if iou is None else f"{iou:.1f}" for iou in pair))
                for name, pair in zip(CLASSES, rows, strict=True)
            ),
            ("mean", f"{found['mIoU']:.1f}", f"{by_colour['mIoU']:.1f}"),
        ]
    )
    print()
    command_line.print_table(
        [
            ("what", "where"),
            ("scenes", to / "scenes"),
            ("model", to / "model.keras"),
            ("SavedModel", f"{to / 'saved_model'}: its labels {'differ' if differing else 'equal those of segment'}"),
            ("page", to / "quickstart.png"),
        ]
    )


if __name__ == "__main__":
    command_line.run(main)
