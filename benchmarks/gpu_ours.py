"""Our side of gpu.py: Keras on JAX. A worker process (worker.py)."""

import contextlib
import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import jax  # noqa: E402
import keras  # noqa: E402
from ours import build  # noqa: E402
from support.drawn import batches, images  # noqa: E402
from worker import serve  # noqa: E402

import keras_deeplab as kd  # noqa: E402
from keras_deeplab import recipes  # noqa: E402


def on_processor():
    """A context that makes arrays on the processor, which needs no GPU kernel for each. A jitted function moves them."""
    return jax.default_device(jax.devices("cpu")[0])


def forward(row, precision, size, batch, passes, key=None):
    """Pictures in, logits at their size out: the network with folded norms, compiled for the size."""
    exact = precision == "exact"
    with on_processor():
        model = kd.fold_norms(build(row, "float32" if exact else precision, is_narrow=False))
    groups = model.trainable_variables, model.non_trainable_variables
    state = jax.device_put([[variable.value for variable in group] for group in groups], jax.devices()[0])
    run = jax.jit(lambda state, x: model.stateless_call(*state, x, training=False)[0])
    x = jax.device_put(images(*size, batch))

    def once():
        with jax.default_matmul_precision("highest") if exact else contextlib.nullcontext():
            for _ in range(passes):
                logits = run(state, x)
        return logits.block_until_ready()

    return once, {}


def step(row, precision, size, batch, passes, key=None):
    """Training steps as `keras-deeplab train` runs them: both losses, gradients, the row's optimizer."""
    with on_processor():
        model = build(row, precision, is_narrow=False, auxiliary_head=True, dropout=0.0)
        recipes.find(row).compile(model)
        model.optimizer.build(model.trainable_variables)
    raw, labels = (drawn[0] for drawn in batches(1, batch, *size, model.num_classes))
    raw, labels = jax.device_put(raw.astype("float32")), jax.device_put(labels)

    def once():
        losses = Losses()
        repeated = ((raw, labels) for _ in range(passes))
        model.fit(repeated, steps_per_epoch=passes, verbose=0, callbacks=[losses])
        return losses.of_steps

    return once, {}


class Losses(keras.callbacks.Callback):
    """Waits for the loss of each step, as the progress line of `keras-deeplab train` does."""

    def on_train_begin(self, logs=None):
        self.of_steps = []

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)  # Keras gives the mean since `fit` began
        self.of_steps.append(total - sum(self.of_steps))


def about():
    """{software: version}, the GPU's name, and the peak of bytes on it."""
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    versions = {"keras_deeplab": kd.__version__, "keras": keras.__version__, "jax": jax.__version__}
    return {"device": device.device_kind, "memory": memory, **versions}


if __name__ == "__main__":
    serve(dict(forward=forward, step=step), about)
