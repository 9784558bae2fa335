"""Trains a row as it was trained, or another folder of pictures by its recipe:

    python -m recipes.train deeplabv3plus_r50_cityscapes --images images --labels labels --to run

writes run/last.keras and, at the end, run/model.keras. The same command goes on where it was stopped, step for step as if it
had not been. Devices: all GPUs, or the processor.
"""

import contextlib
import os
from pathlib import Path

import recipes
from recipes import command


def main(argv):
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument("--images", metavar="DIR", required=True, help="pictures")
    arguments.add_argument(
        "--labels", metavar="DIR", required=True, help="PNG label maps of the same stems; 255 is ignored"
    )
    arguments.add_argument("--reduce-zero-label", action="store_true", help="label 0 is ignored, classes count from 1")
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder for the model")
    arguments.add_argument("--init", metavar="imagenet|ROW|FILE", default="imagenet", help="where the weights start")
    arguments.add_argument(
        "--num-classes", metavar="N", type=command.positive, help="classes of your own labels, if not the row's"
    )
    arguments.add_argument(
        "--steps", metavar="N", type=command.positive, help="length of the schedule, if not the row's"
    )
    arguments.add_argument(
        "--batch", metavar="N", type=command.positive, help="pictures of a step over all devices, if not the row's"
    )
    arguments.add_argument("--learning-rate", metavar="X", type=float, help="of the first step, if not the row's")
    arguments.add_argument("--precision", metavar="P", help="float32, mixed_bfloat16 or mixed_float16")
    arguments.add_argument(
        "--crop", metavar=("H", "W"), type=command.positive, nargs=2, help="pixels, if not the row's"
    )
    arguments.add_argument("--seed", type=int, default=0, help="of every random number: data, new weights, dropout")
    arguments.add_argument(
        "--save-every", metavar="N", type=command.positive, default=1000, help="steps between two checkpoints"
    )
    options = arguments.parse_args(argv)

    import keras

    keras.utils.set_random_seed(options.seed)
    recipe = recipes.find(options.row)
    to = Path(options.to)
    with devices() as scope:
        with scope:
            model = resumed(to) or fresh(recipe, options, checked_classes(recipe, options))
        steps = options.steps or recipe.steps
        done = int(model.optimizer.iterations)
        if steps != schedule_of(model.optimizer).steps:
            raise ValueError(
                f"{to / 'last.keras'} was made with --steps {schedule_of(model.optimizer).steps}, on which its learning rate "
                f"depends. Received: {steps}. Go on with the same, or train --to another folder."
            )
        if done < steps:
            data = recipe.training_data(
                options.images,
                options.labels,
                batch=options.batch,
                crop=options.crop,
                reduce_zero_label=options.reduce_zero_label,
                seed=options.seed,
                start_step=done,
            )
            fit(model, data, done, steps, options.save_every, to)
    save(model, to / "model.keras")
    command.print_table([("what", "result"), ("steps", steps), ("model", to / "model.keras")])


@contextlib.contextmanager
def devices():
    """The scope of a MirroredStrategy over all GPUs, or an empty one."""
    import keras
    import tensorflow as tf

    if keras.backend.backend() == "tensorflow" and "TF_CONFIG" in os.environ:
        raise ValueError(
            "Keras 3 cannot train on several machines with TensorFlow. Use the JAX backend with keras.distribution "
            "(docs/training.md), or unset TF_CONFIG to train on this one."
        )
    several = keras.backend.backend() == "tensorflow" and len(tf.config.list_physical_devices("GPU")) > 1
    yield tf.distribute.MirroredStrategy().scope() if several else contextlib.nullcontext()


def checked_classes(recipe, options):
    """The names in the folder's classes.txt, or None, after every picture and label map has been looked at."""
    from keras_deeplab.data import folder

    count = options.num_classes or recipe.row.num_classes
    problems = folder.check(options.images, options.labels, count, options.reduce_zero_label).problems
    if problems:
        raise ValueError(f"{problems[0]} Faults in all: {len(problems)}; python -m recipes.check lists them.")
    names = folder.read_classes(options.images, options.labels)
    if names and len(names) != count:
        raise ValueError(f"classes.txt names the {count} classes to train. Received: {len(names)} names.")
    return names


def fresh(recipe, options, classes):
    """The row's network with the weights that training starts from, compiled."""
    import keras_deeplab as kd

    row, own = recipe.row, options.num_classes
    shape = dict(auxiliary_head=True, dtype=options.precision)
    if options.init == "imagenet":
        model = command.load(row.name, num_classes=own, load_weights=False, **shape)
        kd.load_backbone(model, row.imagenet)
    elif Path(options.init).is_file():
        model = command.load(row.name, options.init, num_classes=own, **shape)
    else:
        model = command.load(options.init, num_classes=own, **shape)
    model.classes = classes or model.classes
    recipe.compile(model, options.steps, options.learning_rate)
    return model


def resumed(to):
    """The model of an earlier run of the same command, with its optimizer, or None."""
    import keras

    last = to / "last.keras"
    return keras.saving.load_model(last) if last.exists() else None


def schedule_of(optimizer):
    """The learning rate's schedule, of a loss-scaled optimizer that of the one inside."""
    return getattr(optimizer, "inner_optimizer", optimizer)._learning_rate


def fit(model, data, done, steps, save_every, to):
    """Trains from step `done` to `steps`; a checkpoint every `save_every` steps, at the end, and on Ctrl-C."""
    import keras
    import tensorflow as tf

    class Checkpoint(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            step = int(self.model.optimizer.iterations)
            if not abs(logs["loss"]) < float("inf"):
                raise ValueError(
                    f"The loss is {logs['loss']} at step {step}. {to / 'last.keras'} has the weights of the last checkpoint. "
                    "Try a lower --learning-rate, or --precision float32."
                )
            if step % save_every == 0 or step == steps:
                save(self.model, to / "last.keras")

    try:
        model.fit(
            data.take(steps - done), epochs=1, steps_per_epoch=steps - done, callbacks=[Checkpoint()], shuffle=False
        )
    except KeyboardInterrupt:
        save(model, to / "last.keras")
        raise
    except tf.errors.InvalidArgumentError as error:  # a damaged file: the pipeline's message names it
        raise ValueError(str(error).partition("assertion failed: ")[2].split("\n")[0] or error) from error


def save(model, path):
    """Writes the model whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.part.keras")
    model.save(partial)
    os.replace(partial, path)


if __name__ == "__main__":
    command.run(main)
