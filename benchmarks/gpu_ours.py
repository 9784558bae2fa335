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


def forward(row, precision, size, batch, passes, key=None):
    """Pictures in, logits at their size out: the network with folded norms, compiled for the size."""
    exact = precision == "exact"
    model = kd.fold_norms(build(row, "float32" if exact else precision, is_narrow=False))
    state = [
        [variable.value for variable in group] for group in (model.trainable_variables, model.non_trainable_variables)
    ]
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
    model = build(row, precision, is_narrow=False, auxiliary_head=True, dropout=0.0)
    recipes.find(row).compile(model)
    raw, labels = (drawn[0] for drawn in batches(1, batch, *size, model.num_classes))
    raw, labels = jax.device_put(raw.astype("float32")), jax.device_put(labels)

    def once():
        return [float(model.train_on_batch(raw, labels, return_dict=True)["loss"]) for _ in range(passes)]

    return once, {}


def about():
    """{software: version}."""
    device = jax.devices()[0].device_kind
    return {"device": device, "keras_deeplab": kd.__version__, "keras": keras.__version__, "jax": jax.__version__}


if __name__ == "__main__":
    serve(dict(forward=forward, step=step), about)
