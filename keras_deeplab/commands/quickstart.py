"""Makes a toy data set, trains a small DeepLabV3+, evaluates, exports and queries it, and writes a result page.

    keras-deeplab quickstart --to quickstart

takes about two minutes and downloads nothing. A narrow network is trained from random weights by a released row's recipe, on
two devices, which are halves of this processor. Its mIoU on scenes that it has not seen must be at least 75; six seeds gave
86.6 to 90.1. Telling classes apart by their mean colours gives about 4. The exit status is not 0 if the mIoU is lower, or if
the SavedModel gives other labels than `segment`. Then something is wrong with the installation.
"""

from pathlib import Path

import numpy as np

from keras_deeplab import recipes
from keras_deeplab.commands import command_line
from keras_deeplab.recipes.scenes import CLASSES, HEIGHT, WIDTH, read_scenes, write_scenes

ROW = "deeplabv3plus_r18_cityscapes"
NARROW = dict(base_channels=16, stem_channels=16, aspp_channels=32, low_level_channels=12, auxiliary_channels=16)
SCENES = {"train": 200, "held_out": 40}
# Many steps of small crops: 300 steps of 96x96 took as long, but ended before the network had learned even the scenes that it
# was trained on. How far it got was chance, 77 to 87 mIoU.
STEPS, BATCH, CROP, LEARNING_RATE = 500, 16, (64, 64), 0.01
RECIPE_CHANGES = dict(  # for small pictures of one size, and for few steps from random weights
    resize_base=(WIDTH, HEIGHT), resize_ratio=(1.0, 1.0), optimizer="AdamW", weight_decay=0.05
)
NEXT_STEPS = (
    ("all released models", "keras-deeplab list"),
    ("light ones, of 2 to 18 million weights", "keras-deeplab list --backbone mobilenetv2"),
    ("label maps of your pictures", "keras-deeplab predict deeplabv3plus_mobilenetv2_cityscapes photos --to labels"),
    (
        "a light model of your own classes",
        "keras-deeplab train deeplabv3plus_mobilenetv2_cityscapes --images images --labels labels --num-classes 3 --to run",
    ),
)
FIRST_STEP = "The first step compiles the network, which takes about half a minute."
REQUIRED_MIOU = 75.0  # percent, on the held-out scenes; six seeds gave 86.6 to 90.1, median 89.1


def main(argv):
    arguments = command_line.parser("quickstart", __doc__.splitlines()[0], row=False)
    arguments.add_argument("--to", metavar="DIR", default="quickstart", help="folder for scenes, models and the page")
    arguments.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    arguments.add_argument(
        "--steps",
        metavar="N",
        type=command_line.positive_integer,
        default=STEPS,
        help="training steps; the mIoU is not checked if there are fewer than the default",
    )
    options = arguments.parse_args(argv)
    to = Path(options.to)

    strategy = two_devices()
    import keras

    from keras_deeplab.data.pairs import find_pairs
    from keras_deeplab.evaluation import report
    from keras_deeplab.evaluation.evaluate import evaluate
    from keras_deeplab.inference.segment import segment
    from keras_deeplab.serving.export import export_saved_model

    keras.utils.set_random_seed(options.seed)
    folders = [to / "scenes" / name for name in SCENES]
    for number, (folder, count) in enumerate(zip(folders, SCENES.values(), strict=True)):
        write_scenes(folder, count, seed=(options.seed, number))
        print(f"{count} scenes: {folder}")
    training, held_out = ((folder / "images", folder / "labels") for folder in folders)

    print(f"Training a narrow DeepLabV3+, {options.steps} steps on two devices. {FIRST_STEP}", flush=True)
    with strategy.scope():
        model = train(strategy, training, options.steps, options.seed)
    model.save(to / "model.keras")

    print("Scoring on the held-out scenes")
    pairs = find_pairs(*held_out)
    scores = evaluate(model, pairs)
    colour_scores = nearest_mean_colour(training, held_out)

    print("Exporting, and querying the SavedModel")
    export_saved_model(model, to / "saved_model")
    pictures = sorted(held_out[0].iterdir())
    predicted = segment(model, pictures)
    differing = int(np.sum(np.stack(predicted) != np.stack(labels_of_saved_model(to / "saved_model", pictures))))
    page = report.write(
        to,
        f"Quickstart: a narrow DeepLabV3+ after {options.steps} steps",
        model,
        pairs,
        scores,
        about=f"{len(pairs)} scenes that it was not trained on",
        tiles=[("mIoU by the nearest mean colour", colour_scores["mIoU"])],
        label_rule={"reduce_zero_label": False},
        multi_scale_flip=False,
        resize=None,
    )
    print_results(scores, colour_scores, differing, to, page)
    print()
    command_line.print_table([("next", "command"), *NEXT_STEPS])
    if differing:
        raise ValueError(
            "The SavedModel's labels must equal those of `segment`. "
            f"Received: {differing} pixels of the held-out scenes that differ."
        )
    if options.steps >= STEPS and scores["mIoU"] < REQUIRED_MIOU:
        raise ValueError(f"The held-out mIoU must be at least {REQUIRED_MIOU:g}. Received: {scores['mIoU']:.2f}.")


def two_devices():
    """A strategy over two halves of the processor; TensorFlow must not have been used before."""
    import keras
    import tensorflow as tf

    from keras_deeplab.training.devices import strategy_over_cpu_parts

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The quickstart needs the TensorFlow backend, for MirroredStrategy and SavedModel. "
            f"Received: {keras.backend.backend()}. Set KERAS_BACKEND=tensorflow."
        )
    tf.config.set_visible_devices([], "GPU")  # so that the result is the same on every machine
    return strategy_over_cpu_parts(2)


def train(strategy, folders, steps, seed):
    """Trains a narrow network for `steps` steps on the scenes in `folders` (images, labels)."""
    from keras_deeplab.training.devices import distribute_over_cpu_parts
    from keras_deeplab.training.progress import Progress, Run, Steps
    from keras_deeplab.zoo.models import DeepLabV3Plus

    recipe = recipes.find(ROW).replace(**RECIPE_CHANGES)
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
    run = Run(model, folders[0].parent, None, BATCH, seed, 0, steps, {})
    model.fit(
        distribute_over_cpu_parts(strategy, data.take(steps)),
        steps_per_epoch=steps,
        callbacks=[Steps(run, [Progress(run)])],
        shuffle=False,
        verbose=0,
    )
    return model


def nearest_mean_colour(training, held_out):
    """Scores a baseline that only knows colours: a pixel gets the class of the nearest mean colour.

    Args:
        training: folders (images, labels) of the scenes from which the mean colour of each class is taken.
        held_out: folders (images, labels) of the scenes that are scored.

    Returns:
        What `scores` of `keras_deeplab.evaluation.evaluate` returns.
    """
    from keras_deeplab.evaluation.evaluate import confusion, scores

    images, labels = read_scenes(training)
    means = np.array([images[labels == i].mean(0) for i in range(len(CLASSES))])
    images, labels = read_scenes(held_out)
    nearest = np.argmin([np.square(images - mean).sum(-1) for mean in means], axis=0)
    return scores(confusion(labels, nearest, len(CLASSES)))


def labels_of_saved_model(folder, pictures):
    """The label maps, (H, W) uint8 each, that a SavedModel returns for the bytes of picture files."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    pngs = serve(image_bytes=tf.constant([picture.read_bytes() for picture in pictures]))["label_png"]
    return [tf.io.decode_png(png).numpy()[..., 0] for png in pngs]


def print_results(scores, colour_scores, differing, to, page):
    """Prints the scores of the network and of the baseline, and where the files are."""
    print()
    per_class = zip(scores["per_class"], colour_scores["per_class"], strict=True)
    rows = [[entry["IoU"] for entry in both] for both in per_class]
    command_line.print_table(
        [
            ("IoU on held-out scenes", "DeepLabV3+", "nearest mean colour"),
            *(
                (name, *("-" if iou is None else f"{iou:.1f}" for iou in ious))
                for name, ious in zip(CLASSES, rows, strict=True)
            ),
            ("mean", f"{scores['mIoU']:.1f}", f"{colour_scores['mIoU']:.1f}"),
        ]
    )
    print()
    command_line.print_table(
        [
            ("what", "where"),
            ("scenes", to / "scenes"),
            ("model", to / "model.keras"),
            ("SavedModel", f"{to / 'saved_model'}: its labels {'differ' if differing else 'equal those of segment'}"),
            ("page, for your browser", page.resolve().as_uri()),
        ]
    )


if __name__ == "__main__":
    command_line.run(main)
