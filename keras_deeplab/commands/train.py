"""Trains a row as it was trained, or another folder of pictures by its recipe:

    keras-deeplab train deeplabv3plus_r50_cityscapes --images images --labels labels --to run

writes run/last.keras and, at the end, run/model.keras. The same command goes on where it was stopped, step for step as if it
had not been. docs/training.md has validation, fine-tuning, several devices and several machines.
"""

import argparse
import contextlib
import math
from functools import partial
from pathlib import Path

from keras_deeplab import recipes
from keras_deeplab.commands import command_line

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")
PICTURES = 4  # of the validation set, shown in TensorBoard


def main(argv):
    options = parse(argv)

    import keras

    from keras_deeplab.training import progress, resume
    from keras_deeplab.training.devices import place

    keras.utils.set_random_seed(options.seed)
    recipe = recipes.find(options.row)
    classes, batch = options.num_classes or recipe.row.num_classes, options.batch or recipe.batch
    devices = place(options, batch)
    pairs = command_line.open_data(options, "train", classes)
    validation = validation_pairs(options, classes)
    last, made_with = Path(options.to) / "last.keras", decisive(options, recipe, pairs)
    done = resume.steps_made(last, made_with)
    devices.agree(done)
    with devices.scope:
        model = resume.load(last) if done else fresh(recipe, options, classes, pairs)
        recipe.compile(
            model,
            options.steps,
            options.learning_rate,
            class_weight=options.class_weight,
            multipliers=dict(options.multiplier),
            freeze=options.freeze,
        )
        model.optimizer.build(model.trainable_variables)
        if done:
            resume.restore(model, last)
    steps = options.steps or recipe.steps
    run = progress.Run(model, last.parent, pairs, batch, options.seed, done, steps, made_with)
    if done < steps:
        last.parent.mkdir(parents=True, exist_ok=True)
        data = recipe.training_data(
            pairs,
            batch=batch,
            crop=options.crop,
            reduce_zero_label=options.reduce_zero_label,
            seed=options.seed,
            start_step=done,
            process=devices.process,
        )
        data = devices.shared(data.take(steps - done))
        fit(run, data, options, validation if devices.first else None, devices.first)
    if devices.first:
        with progress.alone():
            resume.write(resume.without_optimizer(model), last.with_name("model.keras"))
        command_line.print_table(results(run))
    devices.agree(steps)


def parse(argv):
    arguments = command_line.parser("train", __doc__.splitlines()[0])
    command_line.add_data(arguments)
    count, add = command_line.positive, arguments.add_argument
    add("--to", metavar="DIR", required=True, help="folder for the model")
    add("--init", metavar="imagenet|ROW|FILE", default="imagenet", help="where the weights start")
    add("--num-classes", metavar="N", type=count, help="classes of your own labels, if not the row's")
    add("--steps", metavar="N", type=count, help="length of the schedule, if not the row's")
    add("--batch", metavar="N", type=count, help="pictures of a step over all devices, if not the row's")
    add("--learning-rate", metavar="X", type=factor, help="of the first step, if not the row's")
    add("--precision", metavar="P", choices=PRECISIONS, help="dtype policy; Keras's own if not given")
    add("--crop", metavar=("H", "W"), type=count, nargs=2, help="pixels, if not the row's")
    add("--seed", type=int, default=0, help="of every random number: data, new weights, dropout")
    add("--save-every", metavar="N", type=count, default=1000, help="steps between two checkpoints")
    add("--freeze", choices=("backbone", "norms"), nargs="+", default=[], help="what keeps its weights")
    add("--class-weight", metavar="W", type=factor, nargs="+", help="a factor of each class's loss")
    add(
        "--multiplier", metavar="PREFIX=X", type=multiplier, nargs="+", default=[],
        help="factors of the learning rate, of variables whose path begins so: decode_head=10",
    )  # fmt: skip
    add("--val-images", metavar="DIR", help="pictures to validate on; with --data its val split, if not these")
    add("--val-labels", metavar="DIR", help="their label maps")
    add("--validate-every", metavar="N", type=count, help="steps between two validations; a tenth of the run")
    add("--tensorboard", action="store_true", help="curves and pictures in DIR/tensorboard")
    add("--devices", metavar="N", type=count, help="how many GPUs, or parts of the processor; all GPUs")
    add("--hosts", metavar="ADDRESS,...", help="host:port of every machine (KERAS_BACKEND=jax); a process on each")
    add("--host", metavar="I", type=int, default=0, help="which of them this is, from 0")
    return arguments.parse_args(argv)


def factor(text):
    """The type of an argument that multiplies something."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"a number of at least 0 is needed, not {text!r}")


def multiplier(text):
    prefix, _, number = text.partition("=")
    return prefix, factor(number)


def validation_pairs(options, classes):
    """What to validate on, or None."""
    from keras_deeplab.data.pairs import find_pairs

    if bool(options.val_images) != bool(options.val_labels):
        raise ValueError("Validation needs both --val-images and --val-labels.")
    if options.val_images:
        return find_pairs(options.val_images, options.val_labels)
    if options.data:
        return command_line.open_data(options, "val", classes)
    if options.validate_every:
        raise ValueError("--validate-every needs --val-images and --val-labels.")
    return None


def decisive(options, recipe, pairs):
    """What the weights depend on, by the names of the options: a run goes on with the same alone."""
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
    """Looks at every picture and label map before training does."""
    from keras_deeplab.data import folder

    problems = folder.check(images, labels, classes, options.reduce_zero_label).problems
    if problems:
        raise ValueError(f"{problems[0]} Faults in all: {len(problems)}; keras-deeplab check lists them.")


def fresh(recipe, options, classes, pairs):
    """The row's network with the weights that training starts from."""
    from keras_deeplab.catalog.datasets import DATASETS
    from keras_deeplab.data import folder
    from keras_deeplab.zoo.presets import load_backbone

    names = None
    if options.images:
        check_folder(options.images, options.labels, classes, options)
        names = folder.read_classes(options.images, options.labels)
        if names and len(names) != classes:
            raise ValueError(f"classes.txt names the {classes} classes to train. Received: {len(names)} names.")
    if options.val_images:
        check_folder(options.val_images, options.val_labels, classes, options)
    if options.class_weight and len(options.class_weight) != classes:
        raise ValueError(
            f"--class-weight has a factor for each of {classes} classes. Received: {options.class_weight}."
        )
    row, own = recipe.row, options.num_classes
    shape = dict(auxiliary_head=True, dtype=options.precision)
    if options.init == "imagenet":
        model = command_line.load(row.name, num_classes=own, load_weights=False, **shape)
        load_backbone(model, row.imagenet)
    elif Path(options.init).is_file():
        model = command_line.load(row.name, options.init, num_classes=own, **shape)
    else:
        model = command_line.load(options.init, num_classes=own, **shape)
    model.classes = names or model.classes
    if options.data:
        model.classes, model.palette = DATASETS[pairs.dataset].classes, DATASETS[pairs.dataset].palette
    return model


def fit(run, data, options, validation, first):
    """Trains on; the first process tells of it, validates and saves."""
    import tensorflow as tf

    from keras_deeplab.training import progress, resume

    watch = progress.Watch(run, options.class_weight)
    with resume.Stop() as stop:
        listeners = [watch, *(reports(run, options, validation) if first else [])]
        listeners += [resume.Checkpoint(run, options.save_every, stop, watch.weights)] if first else []
        try:
            run.model.fit(
                data,
                steps_per_epoch=run.steps - run.done,
                callbacks=[progress.Steps(run.done, listeners)],
                shuffle=False,
                verbose=0,
            )
        except tf.errors.InvalidArgumentError as error:  # a damaged file: the pipeline's message names it
            raise ValueError(str(error).partition("assertion failed: ")[2].split("\n")[0] or error) from error


def reports(run, options, validation):
    """The bar, and what was asked for of curves and scores."""
    from keras_deeplab.evaluation.evaluate import evaluate
    from keras_deeplab.training import progress, resume

    bar, curves, every = progress.Progress(run), None, options.validate_every or max(1, run.steps // 10)
    yield bar
    if options.tensorboard:
        from keras_deeplab.training.curves import Curves

        yield (curves := Curves(run))
    if validation is None:
        return
    rule = dict(reduce_zero_label=options.reduce_zero_label)
    score = partial(evaluate, run.model, validation, progress=False, **rule)

    def scored(step, found):
        curves.scores(step, found)
        for name, picture in examples(run.model, validation, rule):
            curves.picture(step, name, picture)

    on = resume.fingerprint(validation)
    yield progress.Validation(run, score, on, every, bar.say, scored if curves else None)


def examples(model, pairs, rule):
    """The first pictures of a set, each beside its label map and what the model says."""
    import numpy as np

    from keras_deeplab.data import pipeline
    from keras_deeplab.inference.segment import segment
    from keras_deeplab.pictures.draw import padded

    colours = np.array(padded(model.palette), np.uint8)
    data = pipeline.evaluation_data(pairs, **rule).take(PICTURES)
    for i, (image, label) in enumerate(data.as_numpy_iterator()):
        beside = np.vstack if image.shape[1] > image.shape[0] else np.hstack
        shown = beside([image, colours[label], colours[segment(model, image)]])
        yield f"picture, label, prediction/{pairs.stems[i]}", shown


def results(run):
    from keras_deeplab.training import resume

    rows = [("what", "result"), ("steps", run.steps), ("model", run.to / "model.keras")]
    if (best := run.to / "best.keras").exists():
        record = resume.read(best)
        rows.append(("best", f"{best}: mIoU {record['mIoU']:.2f} after step {record['step']}"))
    return rows


if __name__ == "__main__":
    command_line.run(main)
