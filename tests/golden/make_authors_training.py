"""Writes authors_training.npz: some steps of the authors' own training of narrow networks, in float64, dropout off.

    PYTHONPATH=research:research/slim python make_authors_training.py [NETWORK...]

NETWORK is one of `authors.TRAINING_RUNS`; all if none is given. Those of others stay in the file.
Needs what make_authors.py needs. The model, the loss, the learning rate, the factors of the gradients and the optimizer are
the authors' (deeplab/model.py, utils/train_utils.py and deployment/model_deploy.py, put together as train.py does).

TensorFlow's bilinear resize and slim's sum of weighted losses compute in float32 only: stand-ins here compute the same in
float64. In float64 the batch norm is TensorFlow's unfused one, whose moving variance is biased. Training uses the fused one,
in float32, so the moving variances kept are those of a second run, in float32, with all operations of their own. The script
prints how far the losses of both runs differ.

Kept for each network of `authors.TRAINING_RUNS`: the losses of every step, and of every variable, in the order of their names,
`evenly_spaced` values after the last step and the largest change; and the names of the variables that weight decay counts.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import make_authors as authors  # noqa: E402  it stands in for tf.contrib
import numpy as np  # noqa: E402
import tf_slim  # noqa: E402
from deeplab import common, model  # noqa: E402
from deeplab.utils import train_utils  # noqa: E402
from deployment import model_deploy  # noqa: E402
from support.authors import CLASSES, TRAINING_CROP, TRAINING_RUNS, weights  # noqa: E402
from support.drawn import batches, evenly_spaced  # noqa: E402

tf = authors.tf
for _name in ("Tensor", "IndexedSlices"):  # which were there when tf_slim was written
    setattr(tf_slim.learning.ops, _name, getattr(tf, _name))
OPERATIONS = tf.image.resize_bilinear, tf.losses.softmax_cross_entropy, tf.to_float


def resize_bilinear(x, size, align_corners):
    assert align_corners
    down, across = (interpolation(int(new), int(old)) for new, old in zip(size, x.shape.as_list()[1:3], strict=True))
    return tf.einsum("ah,bw,nhwc->nabc", tf.constant(down), tf.constant(across), x)


def interpolation(new, old):
    """The weights of `old` pixels in each of `new`, whose first and last lie on the first and last old ones."""
    at = np.arange(new) * ((old - 1) / max(new - 1, 1))
    low = np.minimum(at.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] = 1 - (at - low)
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += at - low
    return matrix


def softmax_cross_entropy(labels, logits, weights, scope):
    """The mean over the pixels whose weight is not 0."""
    losses = tf.nn.softmax_cross_entropy_with_logits_v2(labels=tf.cast(labels, logits.dtype), logits=logits)
    loss = tf.reduce_sum(losses * weights) / tf.reduce_sum(tf.cast(tf.not_equal(weights, 0), logits.dtype))
    tf.losses.add_loss(loss)


def compute_in(dtype):
    """Sets the operations for a number type: TensorFlow's own, or those above."""
    double = resize_bilinear, softmax_cross_entropy, lambda x: tf.cast(x, tf.float64)
    chosen = double if dtype == "float64" else OPERATIONS
    tf.image.resize_bilinear, tf.losses.softmax_cross_entropy, tf.to_float = chosen


def train(name, dtype):
    """The losses of all steps, {variable: value before}, {variable: value after}, and which variables decay."""
    compute_in(dtype)
    tf_slim.dropout = tf_slim.add_arg_scope(lambda x, *_, **__: x)
    steps, rate, decay = TRAINING_RUNS[name]
    pictures, label_maps = batches(steps, 4, *TRAINING_CROP, CLASSES)
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.placeholder(dtype, (4, *TRAINING_CROP, 3))
        label = tf.placeholder("int32", (4, *TRAINING_CROP, 1))
        step = tf.train.get_or_create_global_step()

        def build():
            options = authors.options_of(name, 16, TRAINING_CROP)
            found = model.multi_scale_logits(
                image, options, [1.0], weight_decay=decay, is_training=True, fine_tune_batch_norm=True
            )
            train_utils.add_softmax_cross_entropy_loss_for_each_scale(found[common.OUTPUT_TYPE], label, CLASSES, 255)

        config = model_deploy.DeploymentConfig(clone_on_cpu=True)
        clones = model_deploy.create_clones(config, build)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        loss, regularization = tf.losses.get_losses()[0], tf.losses.get_regularization_losses()
        first_rate, slow_rate = tf.constant(rate, dtype), tf.constant(1e-4, dtype)
        learning_rate = train_utils.get_model_learning_rate("poly", first_rate, 2000, 0.1, steps, 0.9, 0, slow_rate)
        optimizer = tf.train.MomentumOptimizer(learning_rate, 0.9)
        _, gradients = model_deploy.optimize_clones(clones, optimizer)
        factors = train_utils.get_model_gradient_multipliers(model.get_extra_layer_scopes(True), 1.0)
        gradients = tf_slim.learning.multiply_gradients(gradients, factors)
        update = tf.group(*updates, optimizer.apply_gradients(gradients, global_step=step))
        session.run(tf.global_variables_initializer())
        variables = {v.op.name: v for v in tf_slim.get_model_variables()}
        before = {variable: weights(variable, v.shape.as_list()) for variable, v in variables.items()}
        for variable, v in variables.items():
            v.load(before[variable].astype(v.dtype.base_dtype.as_numpy_dtype), session)
        losses = []
        for x, y in zip(pictures, label_maps, strict=True):
            losses.append(session.run([loss, update], {image: x.astype(dtype), label: y[..., None].astype("int32")})[0])
        after = session.run(variables)
    decayed = sorted(
        term.op.name.partition("/kernel/")[0].removesuffix("/Regularizer/l2_regularizer") for term in regularization
    )
    return np.array(losses), before, after, decayed


def main():
    common.FLAGS(["make_authors_training"])
    path = HERE / "authors_training.npz"
    for name in sys.argv[1:] or TRAINING_RUNS:
        losses, before, after, decayed = train(name, "float64")
        own_losses, _, own, own_decayed = train(name, "float32")
        assert own_decayed == decayed and all(value.dtype == np.float32 for value in own.values())
        print(name, "losses", losses, "in float32 they differ by", np.abs(own_losses - losses), flush=True)
        after |= {key: own[key] for key in after if key.endswith("moving_variance")}
        kept = dict(np.load(path)) if path.exists() else {}
        kept[f"{name}/losses"] = losses
        kept[f"{name}/few"] = np.concatenate([evenly_spaced(after[key]) for key in sorted(after)])
        kept[f"{name}/change"] = np.array([np.abs(after[key] - before[key]).max() for key in sorted(after)])
        kept[f"{name}/decayed"] = np.array(decayed)
        np.savez_compressed(path, **kept)


if __name__ == "__main__":
    main()
