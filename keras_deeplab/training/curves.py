"""The losses, scores and pictures of a run in, TensorBoard files out."""

import numpy as np
import tensorflow as tf

from keras_deeplab.training.keras_hooks import learning_rate_of_step

HEADS = {"logits": "decode head", "auxiliary": "auxiliary head"}
POINTS_PER_CURVE = 1000  # as many as TensorBoard shows
LONGEST_SIDE = 1024  # pixels, of a picture in TensorBoard


class Curves:
    """Writes scalars and pictures for TensorBoard to the folder `tensorboard` of the run. A continued run adds to them.

    Args:
        run: the `Run`.

    Raises:
        ImportError: without the package tensorboard.
    """

    def __init__(self, run):
        try:
            import tensorboard  # noqa: F401 (tf.summary needs it)
        except ImportError as error:
            raise ImportError("--tensorboard needs the package tensorboard: pip install tensorboard.") from error
        self.run, self.losses, self.head_losses, self.seconds = run, [], [], []
        self.every = max(1, run.steps // POINTS_PER_CURVE)
        folder = run.folder / "tensorboard"
        remove_events_after(folder, run.steps_done)
        self.writer = tf.summary.create_file_writer(str(folder))

    def __call__(self, step, loss, seconds):
        """Adds a point every `self.every` steps: the mean of the steps since the last point.

        With an auxiliary head the losses of both heads are added, without the weight that they have in the sum.
        """
        self.losses.append(loss)
        self.head_losses.append(self.run.head_losses)
        self.seconds.append(seconds)
        if step % self.every and step != self.run.steps:
            return
        with self.writer.as_default(step):
            tf.summary.scalar("loss", np.mean(self.losses))
            for name in self.run.head_losses:
                tf.summary.scalar(f"loss/{HEADS[name]}", np.mean([losses[name] for losses in self.head_losses]))
            tf.summary.scalar("learning rate", learning_rate_of_step(self.run.model.optimizer, step))
            tf.summary.scalar("images per second", self.run.batch / np.mean(self.seconds))
        # Flush before the checkpoint of this step is written: a run that is killed later does not repeat the step.
        self.writer.flush()
        self.losses, self.head_losses, self.seconds = [], [], []

    def scores(self, step, scores):
        """Adds the mIoU and each class's IoU of `scores`, which `keras_deeplab.evaluate` returned."""
        with self.writer.as_default(step):
            tf.summary.scalar("mIoU", scores["mIoU"])
            for of in scores["per_class"]:
                if of["IoU"] is not None:
                    tf.summary.scalar(f"IoU/{of['class'].strip()}", of["IoU"])
        self.writer.flush()

    def picture(self, step, name, picture):
        """Adds a picture, (H, W, 3) uint8. Rows and columns are left out until no side is longer than `LONGEST_SIDE`."""
        stride = -(-max(picture.shape) // LONGEST_SIDE)
        with self.writer.as_default(step):
            tf.summary.image(name, picture[None, ::stride, ::stride])
        self.writer.flush()


def remove_events_after(folder, step):
    """Removes the events after `step` from TensorBoard's files.

    A killed run wrote them after its last checkpoint. The continued run makes these steps again and writes them again.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept, partial = [], folder / "part"
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if tf.compat.v1.Event.FromString(record).step <= step:
                    kept.append(record)
        except tf.errors.DataLossError:
            pass  # the last record is incomplete: the run was killed while it was written
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for record in kept:
                writer.write(record)
        partial.replace(path)
