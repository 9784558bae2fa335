"""Trains a model by the recipe of a released one, on its data set or on your own pictures.

    keras-deeplab train deeplabv3plus_r50_cityscapes --images images --labels labels --to run

writes the checkpoint run/last.keras and, at the end, run/model.keras. The same command continues a stopped run, and gives the
weights of a run that was never stopped. docs/training.md has validation, fine-tuning, several devices and several machines.
"""

import argparse
import contextlib
import math
from functools import partial
from pathlib import Path

from keras_deeplab import recipes
from keras_deeplab.commands import command_line

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")
EXAMPLE_PICTURES = 4  # of the validation set, shown in TensorBoard


def main(argv):
    options = parse(argv)

    import keras

    from keras_deeplab.training import progress, resume
    from keras_deeplab.training.devices import choose_devices

    keras.utils.set_random_seed(options.seed)
    recipe = recipes.find(options.row)
    classes, batch = options.num_classes or recipe.num_classes, options.batch or recipe.batch
    devices = choose_devices(options, batch)
    pairs = command_line.open_data(options, "train", classes)
    validation = validation_pairs(options, classes)
    last, weight_options = Path(options.to) / "last.keras", options_of_weights(options, recipe, pairs)
    steps_done = resume.steps_made(last, weight_options)
    devices.check_same_step(steps_done)
    with devices.scope:
        model = resume.load(last) if steps_done else new_model(recipe, options, classes, pairs)
        recipe.compile(
            model,
            options.steps,
            options.learning_rate,
            class_weight=options.class_weight,
            multipliers=dict(options.multiplier),
            freeze=options.freeze,
        )
        model.optimizer.build(model.trainable_variables)
        if steps_done:
            resume.restore(model, last)
    steps = options.steps or recipe.steps
    run = progress.Run(model, last.parent, pairs, batch, options.seed, steps_done, steps, weight_options)
    if steps_done < steps:
        last.parent.mkdir(parents=True, exist_ok=True)
        data = recipe.training_data(
            pairs,
            batch=batch,
            crop=options.crop,
            reduce_zero_label=options.reduce_zero_label,
            seed=options.seed,
            start_step=steps_done,
            process=devices.process,
        )
        data = devices.distribute(data.take(steps - steps_done))
        fit(run, data, options, validation if devices.is_first else None, devices.is_first)
    if devices.is_first:
        with progress.without_distribution():
            resume.write(resume.without_optimizer(model), last.with_name("model.keras"))
        command_line.print_table(result_rows(run))
    devices.check_same_step(steps)


def parse(argv):
    """The parsed arguments of the command."""
    arguments = command_line.parser("train", __doc__.splitlines()[0])
    command_line.add_data(arguments)
    count, number, add = command_line.positive_integer, non_negative_number, arguments.add_argument
    add("--to", metavar="DIR", required=True, help="folder for the checkpoint and the models")
    add("--init", metavar="imagenet|ROW|FILE", default="imagenet", help="weights to start from")
    add("--num-classes", metavar="N", type=count, help="number of classes of your own labels; the row's if not given")
    add("--steps", metavar="N", type=count, help="training steps of the whole run; the row's if not given")
    add("--batch", metavar="N", type=count, help="pictures of a step, over all devices; the row's if not given")
    add("--learning-rate", metavar="X", type=number, help="learning rate of the first step; the row's if not given")
    add("--precision", metavar="P", choices=PRECISIONS, help="dtype policy; Keras's setting if not given")
    add("--crop", metavar=("H", "W"), type=count, nargs=2, help="size of a crop in pixels; the row's if not given")
    add("--seed", type=int, default=0, help="seed of all random numbers: data, new weights, dropout")
    add("--save-every", metavar="N", type=count, default=1000, help="steps between two checkpoints")
    add("--freeze", choices=("backbone", "norms"), nargs="+", default=[], help="parts that keep their weights")
    add("--class-weight", metavar="W", type=number, nargs="+", help="a factor for each class's loss")
    add(
        "--multiplier", metavar="PREFIX=X", type=multiplier, nargs="+", default=[],
        help="factors for the learning rate of variables whose path begins with PREFIX, such as decode_head=10",
    )  # fmt: skip
    add("--val-images", metavar="DIR", help="folder of pictures to validate on; with --data, its val split by default")
    add("--val-labels", metavar="DIR", help="folder of their label maps")
    add("--validate-every", metavar="N", type=count, help="steps between validations; a tenth of the run if not given")
    add("--tensorboard", action="store_true", help="write curves and pictures to the folder tensorboard in --to")
    add("--devices", metavar="N", type=count, help="number of GPUs, or of parts of the processor; by default all GPUs")
    add("--hosts", metavar="ADDRESS,...", help="host:port of each machine, with KERAS_BACKEND=jax; one process on each")
    add("--host", metavar="I", type=int, default=0, help="number of this machine in --hosts, from 0")
    return arguments.parse_args(argv)


def non_negative_number(text):
    """The `type` of an option that is a learning rate or a factor."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number of at least 0. Received: {text!r}")


def multiplier(text):
    """The `type` of --multiplier: "PREFIX=X" becomes (prefix, number)."""
    prefix, _, number = text.partition("=")
    return prefix, non_negative_number(number)


def validation_pairs(options, classes):
    """The labelled pictures to validate on, or None."""
    from keras_deeplab.data.pairs import find_pairs

    if bool(options.val_images) != bool(options.val_labels):
        named = "--val-images" if options.val_images else "--val-labels"
        raise ValueError(f"Validation needs both --val-images and --val-labels. Received: {named} alone.")
    if options.val_images:
        return find_pairs(options.val_images, options.val_labels)
    if options.data:
        return command_line.open_data(options, "val", classes)
    if options.validate_every:
        raise ValueError("--validate-every needs --val-images and --val-labels, or --data. Received: none of them.")
    return None


def options_of_weights(options, recipe, pairs):
    """{name: value} of all options that the weights depend on. A run can be continued only with the same."""
    import keras

    from keras_deeplab.training import resume

    return {
        "ROW": recipe.row.name,
        "--init": options.init,
        "--num-classes": options.num_classes,
        "--steps": options.steps or recipe.steps,
        "--batch": options.batch or recipe.batch,
        "--learning-rate": recipe.learning_rate if options.learning_rate is None else options.learning_rate,
        "--precision": options.precision or keras.config.dtype_policy().name,
        "--crop": options.crop or recipe.crop,
        "--seed": options.seed,
        "--freeze": sorted(set(options.freeze)),
        "--class-weight": options.class_weight,
        "--multiplier": [f"{prefix}={number:g}" for prefix, number in options.multiplier],
        "--reduce-zero-label": options.reduce_zero_label or None,
        "data of": resume.fingerprint(pairs),
    }


def check_folder(images, labels, classes, options):
    """Raises `ValueError` if a picture or label map is faulty, before hours of training are lost."""
    from keras_deeplab.data import folder

    problems = folder.check(images, labels, classes, options.reduce_zero_label).problems
    if problems:
        raise ValueError(f"{problems[0]} Number of faults: {len(problems)}. `keras-deeplab check` lists them.")


def new_model(recipe, options, classes, pairs):
    """Checks the data and builds the row's network, with the weights that training starts from."""
    from keras_deeplab.catalog.datasets import DATASETS
    from keras_deeplab.data import folder
    from keras_deeplab.zoo.presets import has_backbone_only, load_backbone

    names = None
    if options.images:
        check_folder(options.images, options.labels, classes, options)
        names = folder.read_classes(options.images, options.labels)
        if names and len(names) != classes:
            raise ValueError(f"classes.txt must name all {classes} classes. Received: {len(names)} names.")
    if options.val_images:
        check_folder(options.val_images, options.val_labels, classes, options)
    if options.class_weight and len(options.class_weight) != classes:
        raise ValueError(
            f"--class-weight needs {classes} factors, one for each class. Received: {options.class_weight}."
        )
    row = recipe.row
    own_classes = recipe.num_classes if recipe.num_classes != row.num_classes else None  # without "no class" of ADE20K
    num_classes = options.num_classes or own_classes
    architecture = dict(num_classes=num_classes, auxiliary_head=recipe.auxiliary_head, dtype=options.precision)
    if options.init == "imagenet" and row.imagenet is None:
        raise ValueError(
            f"No weights of the backbone alone were released for {row.name}. Received: --init imagenet. "
            f"Write --init {row.name}, or --init FILE."
        )
    is_file = Path(options.init).is_file() or Path(f"{options.init}.index").is_file()  # a TensorFlow checkpoint
    is_backbone = is_file and has_backbone_only(options.init, row)
    if options.init == "imagenet" or is_backbone:
        model = command_line.load(row.name, load_weights=False, **architecture)
        load_backbone(model, options.init if is_backbone else row.imagenet)
    elif is_file:
        model = command_line.load(row.name, options.init, **architecture)
    else:
        model = command_line.load(options.init, **architecture)
    model.classes = names or model.classes
    if options.data:
        model.classes, model.palette = DATASETS[pairs.dataset].classes, DATASETS[pairs.dataset].palette
    return model


def fit(run, data, options, validation, first):
    """Trains the rest of the run. Only the first process (`first`) shows progress, validates and saves."""
    import tensorflow as tf

    from keras_deeplab.training import progress, resume

    watch = progress.LossWatch(run, options.class_weight)
    with resume.Stop() as stop:
        listeners = [watch, *(progress_listeners(run, options, validation) if first else [])]
        listeners += [resume.Checkpoint(run, options.save_every, stop, watch.check_weights)] if first else []
        try:
            run.model.fit(
                data,
                steps_per_epoch=run.steps - run.steps_done,
                callbacks=[progress.Steps(run.steps_done, listeners)],
                shuffle=False,
                verbose=0,
            )
        except tf.errors.InvalidArgumentError as error:  # a damaged file, which the message names
            raise ValueError(str(error).partition("assertion failed: ")[2].split("\n")[0] or error) from error


def progress_listeners(run, options, validation):
    """The progress bar, and curves and validation if the options ask for them; each is called after every step."""
    from keras_deeplab.evaluation.evaluate import evaluate
    from keras_deeplab.training import progress, resume

    bar, curves, every = progress.Progress(run), None, options.validate_every or max(1, run.steps // 10)
    yield bar
    if options.tensorboard:
        from keras_deeplab.training.curves import Curves

        yield (curves := Curves(run))
    if validation is None:
        return
    label_rule = dict(reduce_zero_label=options.reduce_zero_label)
    score = partial(evaluate, run.model, validation, progress=False, **label_rule)

    def draw_curves(step, scores):
        curves.scores(step, scores)
        for name, picture in example_pictures(run.model, validation, label_rule):
            curves.picture(step, name, picture)

    fingerprint = resume.fingerprint(validation)
    yield progress.Validation(run, score, fingerprint, every, bar.print_above, draw_curves if curves else None)


def example_pictures(model, pairs, label_rule):
    """(name, image) of the first pairs: picture, label map and prediction in one image."""
    import numpy as np

    from keras_deeplab.data import pipeline
    from keras_deeplab.inference.segment import segment
    from keras_deeplab.pictures.draw import padded_palette

    colours = np.array(padded_palette(model.palette), np.uint8)
    data = pipeline.evaluation_data(pairs, **label_rule).take(EXAMPLE_PICTURES)
    for i, (image, label) in enumerate(data.as_numpy_iterator()):
        join = np.vstack if image.shape[1] > image.shape[0] else np.hstack  # wide pictures one below the other
        panels = join([image, colours[label], colours[segment(model, image)]])
        yield f"picture, label, prediction/{pairs.stems[i]}", panels


def result_rows(run):
    """Rows of the table that is printed at the end."""
    from keras_deeplab.training import resume

    rows = [("what", "result"), ("steps", run.steps), ("model", run.folder / "model.keras")]
    if (best := run.folder / "best.keras").exists():
        record = resume.read(best)
        rows.append(("best", f"{best}: mIoU {record['mIoU']:.2f} after step {record['step']}"))
    return rows


if __name__ == "__main__":
    command_line.run(main)
