"""A run in, curves and pictures for TensorBoard out."""

import numpy as np
import tensorflow as tf

from keras_deeplab.training.keras_hooks import learning_rate_of_step

POINTS = 1000  # of a curve: as many as TensorBoard keeps
PIXELS = 1024  # longest side of a picture


class Curves:
    """Scalars and pictures for TensorBoard, in `to/tensorboard`; a run that goes on continues its curves.

    Raises:
        ImportError: without the package tensorboard.
    """

    def __init__(self, run):
        try:
            import tensorboard  # noqa: F401 (tf.summary needs it)
        except ImportError as error:
            raise ImportError("--tensorboard needs a package: pip install tensorboard.") from error
        self.run, self.losses, self.seconds = run, [], []
        self.every = max(1, run.steps // POINTS)
        folder = run.to / "tensorboard"
        forget_after(folder, run.done)
        self.writer = tf.summary.create_file_writer(str(folder))

    def __call__(self, step, loss, seconds):
        self.losses.append(loss)
        self.seconds.append(seconds)
        if step % self.every and step != self.run.steps:
            return
        with self.writer.as_default(step):
            tf.summary.scalar("loss", np.mean(self.losses))
            tf.summary.scalar("learning rate", learning_rate_of_step(self.run.model.optimizer, step))
            tf.summary.scalar("images per second", self.run.batch / np.mean(self.seconds))
        self.writer.flush()  # before any checkpoint of this step: what is killed after it must not lack the point
        self.losses, self.seconds = [], []

    def scores(self, step, found):
        """Adds what `keras_deeplab.evaluate` gave."""
        with self.writer.as_default(step):
            tf.summary.scalar("mIoU", found["mIoU"])
            for scores in found["per_class"]:
                if scores["IoU"] is not None:
                    tf.summary.scalar(f"IoU/{scores['class'].strip()}", scores["IoU"])
        self.writer.flush()

    def picture(self, step, name, shown):
        """Adds a picture, (H, W, 3) uint8."""
        thin = -(-max(shown.shape) // PIXELS)
        with self.writer.as_default(step):
            tf.summary.image(name, shown[None, ::thin, ::thin])
        self.writer.flush()


def forget_after(folder, step):
    """Drops from TensorBoard's files what a killed run wrote after its last checkpoint: these steps come again."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept, partial = [], folder / "part"
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if tf.compat.v1.Event.FromString(record).step <= step:
                    kept.append(record)
        except tf.errors.DataLossError:
            pass  # the kill cut the last record in two
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for record in kept:
                writer.write(record)
        partial.replace(path)
