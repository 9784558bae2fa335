"""Trains a model by the recipe of a released one, on its data set or on your own pictures.

    keras-deeplab train deeplabv3plus_r50_cityscapes --images images --labels labels --to run

writes the checkpoint run/last.keras and, at the end, run/model.keras. The same command continues a stopped run, and gives the
weights of a run that was never stopped. docs/training.md has validation, fine-tuning, several devices and several machines.
"""

import argparse
import contextlib
import math
import sys
from functools import partial
from pathlib import Path

from keras_deeplab import files, recipes
from keras_deeplab.commands import command_line
from keras_deeplab.data import label_rule
from keras_deeplab.recipes.record import LOSSES

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")
EXAMPLE_PICTURES = 4  # of the validation set, shown in TensorBoard
PAIRS_READ = 4000  # at most, evenly spaced, before the first step; more only while a class was in none of them
SIZES_READ = 1000  # pictures whose size is looked up, at most
CROP_STEP = 32  # pixels; the crop for small pictures is a multiple of it


def main(argv):
    options = parse(argv)

    import keras

    from keras_deeplab.training.devices import choose_devices

    keras.utils.set_random_seed(options.seed)
    recipe = recipes.find(options.row)
    classes, batch = number_of_classes(options, recipe), options.batch or recipe.batch
    devices = choose_devices(options, batch)
    options.pairs = command_line.open_data(options, "train", classes)
    options.validation = validation_pairs(options, classes)
    choose_sizes(options, recipe)
    with folder_of_run(options.to) if devices.is_first else contextlib.nullcontext():
        train(options, recipe, classes, batch, devices)


def train(options, recipe, classes, batch, devices):
    """Trains, or continues, the run in the folder `options.to`."""
    from keras_deeplab.training import progress, resume

    pairs, report = options.pairs, None
    last, weight_options = Path(options.to) / "last.keras", options_of_weights(options, recipe, pairs)
    steps_done = resume.steps_made(last, weight_options)
    devices.check_same_step(steps_done)
    if not steps_done:
        report = check_data(options, classes, devices.is_first)
    with devices.scope:
        model = resume.load(last) if steps_done else new_model(recipe, options, classes, pairs)
        model.protocol = recipe.protocol(options.resize, options.crop)
        model.threshold = options.threshold or model.threshold
        recipe.compile(
            model,
            options.steps,
            options.learning_rate,
            class_weight=options.class_weight,
            multipliers=dict(options.multiplier),
            freeze=options.freeze,
            loss=dict(options.loss) or None,
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
            resize=options.resize,
            crop=options.crop,
            seed=options.seed,
            start_step=steps_done,
            process=devices.process,
            allow_missing_classes=True,  # `check_data` has read the label maps
            **command_line.label_rule(options),
        )
        data = devices.distribute(data.take(steps - steps_done))
        if devices.is_first:
            print_summary(run, recipe, options, devices, report)
        fit(run, data, options, options.validation if devices.is_first else None, devices.is_first)
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
    add("--allow-missing-classes", action="store_true", help="train though a class occurs in no label map")
    add("--steps", metavar="N", type=count, help="training steps of the whole run; the row's if not given")
    add("--batch", metavar="N", type=count, help="pictures of a step, over all devices; the row's if not given")
    add("--learning-rate", metavar="X", type=number, help="learning rate of the first step; the row's if not given")
    add("--precision", metavar="P", choices=PRECISIONS, help="dtype policy; Keras's setting if not given")
    add(
        "--resize", action=command_line.Resize,
        help="sides of the box that pictures are resized to fit, in training and in tests, or own: their own size. The row's "
        "box with --data, own with --images, if not given",
    )  # fmt: skip
    add(
        "--crop", metavar=("H", "W"), type=count, nargs=2,
        help="size of a crop in pixels; the row's if not given, or smaller if all your pictures are",
    )  # fmt: skip
    add("--one-output", action="store_true", help="two classes with a single output, the logit of class 1")
    add(
        "--threshold",
        metavar="P",
        type=probability,
        help="with --one-output: probability above which a pixel is class 1; that of the file --init, or 0.3, if not given",
    )
    add(
        "--loss", metavar="NAME[=WEIGHT]", type=loss_and_weight, nargs="+", default=[],
        help=f"losses whose weighted sum is trained: {', '.join(LOSSES)}; cross-entropy if not given",
    )  # fmt: skip
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
    add(
        "--val-split-file", metavar="FILE", help="as --split-file, for these folders, or else for --images and --labels"
    )
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
    prefix, equals, number = text.partition("=")
    if not prefix or not equals:
        raise argparse.ArgumentTypeError(f"must be PREFIX=X, such as decode_head=10. Received: {text!r}")
    return prefix, non_negative_number(number)


def loss_and_weight(text):
    """The `type` of --loss: "NAME" or "NAME=WEIGHT" becomes (name, weight)."""
    name, equals, weight = text.partition("=")
    if name not in LOSSES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(LOSSES)}, or NAME=WEIGHT. Received: {text!r}")
    return name, non_negative_number(weight) if equals else 1.0


def probability(text):
    """The `type` of --threshold."""
    number = non_negative_number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be a probability above 0 and below 1. Received: {text!r}")
    return number


def number_of_classes(options, recipe):
    """The number of classes to train; options that contradict it are refused."""
    if options.threshold and not options.one_output:
        raise ValueError("--threshold is for models with one output. Received: no --one-output. Add it.")
    if options.one_output and options.num_classes not in (None, 2):
        raise ValueError(
            f"--one-output is for two classes, background and foreground. Received: --num-classes {options.num_classes}. "
            "Leave --num-classes out, or --one-output."
        )
    classes = 2 if options.one_output else options.num_classes or recipe.num_classes
    if not 2 <= classes <= 255:
        raise ValueError(
            f"--num-classes must be from 2 to 255; the background is a class too. Received: {classes}. For one class and its "
            "background use --num-classes 2, or --one-output."
        )
    weights = 1 if options.one_output else classes
    if options.class_weight and len(options.class_weight) != weights:
        needed = (
            f"{weights} factors, one for each class" if weights > 1 else "one factor with --one-output, that of class 1"
        )
        raise ValueError(f"--class-weight needs {needed}. Received: {options.class_weight}.")
    return classes


def choose_sizes(options, recipe):
    """Sets what --resize and --crop are if they are not given, and the sizes of the pictures.

    Own folders are trained at their own size: the row's box would enlarge small pictures and shrink large ones. A crop that is
    larger than all pictures would be padding.
    """
    from keras_deeplab.data import folder
    from keras_deeplab.pictures.resize import fit_in_box

    options.sizes, options.sizes_read = {}, 0
    if options.images:
        options.sizes, options.sizes_read = folder.picture_sizes(options.pairs, SIZES_READ)
        options.resize = options.resize or "own"
    if options.resize not in (None, "own") and sorted(options.resize) == sorted(recipe.resize_base):
        options.resize = None  # the row's own box
    if options.crop is None:
        options.crop = recipe.crop
        if options.sizes:
            box = recipe.resize_base if options.resize is None else options.resize
            shapes = [(height, width) for width, height in options.sizes]
            if box != "own":
                shapes = [tuple(int(side) for side in fit_in_box(*shape, max(box), min(box))) for shape in shapes]
            largest = (max(sides) for sides in zip(*shapes, strict=True))
            options.crop = tuple(
                min(side, -(-most // CROP_STEP) * CROP_STEP) for side, most in zip(recipe.crop, largest, strict=True)
            )


@contextlib.contextmanager
def folder_of_run(to):
    """Holds the lock of a run's folder. A folder that is made for it and stays empty is removed again."""
    to = Path(to)
    if to.exists() and not to.is_dir():
        raise NotADirectoryError(f"--to must be a folder. Received: {to}, which is a file. Name another folder.")
    existed = to.exists()
    try:
        with files.locked(to / "training.lock", f"is training into {to}"):
            for name in ("last.keras", "best.keras", "model.keras"):
                files.remove_temporary_files(to / name)
            yield
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty
                to.rmdir()


def validation_pairs(options, classes):
    """The labelled pictures to validate on, or None."""
    from keras_deeplab.data.pairs import find_pairs

    if bool(options.val_images) != bool(options.val_labels):
        named = "--val-images" if options.val_images else "--val-labels"
        raise ValueError(f"Validation needs both --val-images and --val-labels. Received: {named} alone.")
    if options.val_split_file and options.data and not options.val_images:
        raise ValueError("--val-split-file is for folders. Received: --data. Leave it out.")
    if options.val_images or options.val_split_file:
        names = {**command_line.file_names(options), "split_file": options.val_split_file}
        return find_pairs(options.val_images or options.images, options.val_labels or options.labels, **names)
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
        "--resize": options.resize,
        "--crop": options.crop,
        "--seed": options.seed,
        "--freeze": sorted(set(options.freeze)),
        "--class-weight": options.class_weight,
        "--multiplier": [f"{prefix}={number:g}" for prefix, number in options.multiplier],
        "--reduce-zero-label": options.reduce_zero_label or None,
        "--label-map": [f"{old}={new}" for old, new in (command_line.label_rule(options)["label_map"] or {}).items()]
        or None,
        "--one-output": options.one_output or None,
        "--loss": [f"{name}={weight:g}" for name, weight in options.loss] or None,
        "data of": resume.fingerprint(pairs),
    }


def check_data(options, classes, first):
    """Reads own folders before hours of training are lost.

    Returns:
        `keras_deeplab.data.folder.Report` of the pictures to train on; None for a prepared data set.

    Raises:
        ValueError: if a picture or label map is faulty, or a class occurs in no label map.
    """
    from keras_deeplab.data import folder
    from keras_deeplab.progress import Progress

    reports = []
    for pairs, may_lack_classes in ((options.pairs, options.allow_missing_classes), (options.validation, True)):
        if pairs is None or pairs.train_ids:
            reports.append(None)
            continue
        if first:
            count = min(len(pairs), PAIRS_READ)
            print(f"Checking {count} of {len(pairs)} pictures and label maps", flush=True)
        with Progress(len(pairs), shown=first and sys.stderr.isatty(), noun="pairs") as bar:
            report = folder.check_pairs(
                list(zip(pairs.images, pairs.labels, strict=True)),
                classes,
                progress=lambda _, bar=bar: bar.add(),
                at_most=PAIRS_READ,
                allow_missing_classes=may_lack_classes,
                **command_line.label_rule(options),
            )
        if report.problems:
            more = f" Number of faults: {len(report.problems)}." if report.problems[1:] else ""
            raise ValueError(f"{report.problems[0]}{more} `keras-deeplab check` lists them.")
        reports.append(report)
    return reports[0]


def new_model(recipe, options, classes, pairs):
    """The row's network for the data, with the weights that training starts from."""
    from keras_deeplab.catalog.datasets import DATASETS
    from keras_deeplab.data import folder
    from keras_deeplab.zoo.presets import has_backbone_only, load_backbone

    names = None
    if options.images:
        names = folder.read_classes(options.images, options.labels)
        if names and len(names) != classes:
            raise ValueError(f"classes.txt must name all {classes} classes. Received: {len(names)} names.")
    row = recipe.row
    # A recipe whose classes are fewer than its row's leaves out the row's output for "no class".
    own_classes = recipe.num_classes if recipe.num_classes != row.num_classes else None
    num_classes = 2 if options.one_output else options.num_classes or own_classes
    architecture = dict(num_classes=num_classes, auxiliary_head=recipe.auxiliary_head, dtype=options.precision)
    if options.one_output:
        architecture |= dict(out_channels=1, threshold=options.threshold)
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


def print_summary(run, recipe, options, devices, report):
    """Says what will be trained, before the first step."""
    import keras

    from keras_deeplab.training import summary

    model, remaining = run.model, run.steps - run.steps_done
    rule = label_rule.describe(**command_line.label_rule(options))
    epochs = run.steps * run.batch / len(run.pairs)
    losses = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in options.loss)
    box = None if options.resize == "own" else options.resize or recipe.resize_base
    validation = options.validation
    summary.print_facts(
        [
            ("pictures", summary.sizes_text(len(run.pairs), options.sizes, options.sizes_read)),
            ("checked", report and f"{report.scanned} label maps of {len(run.pairs)}: no faults"),
            ("validation", f"{len(validation)} pictures" if validation else "none"),
            ("labels", rule),
            ("classes", summary.classes_text(model.classes, report and report.pixels)),
            ("resize", summary.resize_text(box, recipe.resize_ratio, options.sizes)),
            ("crop", f"{options.crop[0]}x{options.crop[1]} (height x width)"),
            ("test", summary.protocol_text(model.protocol)),
            ("loss", losses or "cross-entropy"),
            ("output", f"one, class 1 above the probability {model.threshold:g}" if options.one_output else ""),
            ("batch", f"{run.batch} pictures"),
            ("steps", f"{run.steps} ({epochs:.3g} epochs)" + (f", {remaining} to go" if run.steps_done else "")),
            ("device", summary.devices_text(devices)),
            ("precision", options.precision or keras.config.dtype_policy().name),
            ("saves", f"{run.folder / 'last.keras'} every {options.save_every} steps"),
        ]
    )
    print(summary.FIRST_STEP, flush=True)


def fit(run, data, options, validation, first):
    """Trains the rest of the run. Only the first process (`first`) shows progress, validates and saves."""
    import tensorflow as tf

    from keras_deeplab.training import progress, resume

    watch = progress.LossWatch(run, options.class_weight, [weight for _, weight in options.loss] or None)
    with resume.Stop() as stop:
        listeners = [watch, *(progress_listeners(run, options, validation) if first else [])]
        listeners += [resume.Checkpoint(run, options.save_every, stop, watch.check_weights)] if first else []
        try:
            run.model.fit(
                data,
                steps_per_epoch=run.steps - run.steps_done,
                callbacks=[progress.Steps(run, listeners)],
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
    label_rule = command_line.label_rule(options)
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
    from keras_deeplab.pictures.draw import label_picture

    data = pipeline.evaluation_data(pairs, **label_rule).take(EXAMPLE_PICTURES)
    for i, (image, label) in enumerate(data.as_numpy_iterator()):
        join = np.vstack if image.shape[1] > image.shape[0] else np.hstack  # wide pictures one below the other
        panels = join([image, *(label_picture(labels, model.palette) for labels in (label, segment(model, image)))])
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
