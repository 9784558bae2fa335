"""Where the commands train: on one device, on several of this machine, or on several machines."""

import contextlib
import os
from dataclasses import dataclass
from typing import Any


@dataclass
class Place:
    """Where to train.

    Attributes:
        strategy: a `tf.distribute.Strategy`, or None.
        process: (index, count) of the processes that share each batch.
    """

    strategy: Any = None
    process: tuple[int, int] = (0, 1)

    @property
    def scope(self):
        """What the model is built in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def shared(self, data):
        """Batches as `fit` takes them."""
        return shared_by_processors(self.strategy, data) if self.strategy and not gpus() else data

    @property
    def first(self):
        """Whether this process prints, validates and saves for all."""
        return self.process[0] == 0

    def agree(self, step):
        """Waits for all processes; raises `ValueError` if another one is at another step."""
        if self.process[1] > 1:
            import numpy as np
            from jax.experimental import multihost_utils

            found = multihost_utils.process_allgather(np.array(step)).tolist()
            if len(set(found)) > 1:
                raise ValueError(
                    f"Every host reads and writes the same folder --to. They found checkpoints of the steps {found}."
                )


def place(options, batch):
    """All GPUs, `--devices` of them or parts of the processor, or all devices of `--hosts`."""
    import keras
    import tensorflow as tf

    backend = keras.backend.backend()
    if (options.hosts or options.host) and backend != "jax":
        raise ValueError(f"--hosts needs the JAX backend: KERAS_BACKEND=jax. Received: {backend}.")
    if backend == "tensorflow" and "TF_CONFIG" in os.environ:
        raise ValueError(
            "Keras 3 cannot train on several machines with TensorFlow. Use the JAX backend with keras.distribution "
            "(docs/training.md), or unset TF_CONFIG to train on this one."
        )
    if options.devices and backend != "tensorflow":
        raise ValueError("--devices is TensorFlow's. JAX takes all that it sees: set CUDA_VISIBLE_DEVICES.")
    if backend == "jax":
        return jax_devices(options, batch)
    here = len(gpus()) if backend == "tensorflow" else 0
    count = options.devices or max(1, here)
    if here and count > here:
        raise ValueError(f"This machine has {here} GPUs. Received: --devices {count}.")
    if count == 1:
        return Place()
    require_divided(batch, count)
    return Place(tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(count)]) if here else processors(count))


def gpus():
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def processors(count):
    """A strategy over equal parts of the processor; TensorFlow must not have been used before."""
    import tensorflow as tf

    part = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [part] * count)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def shared_by_processors(strategy, data):
    """The batches for each part of the processor.

    Fetched ahead to each device, as is usual, the end of `fit` may wait for a minute (TensorFlow 2.21).
    """
    import tensorflow as tf

    return strategy.experimental_distribute_dataset(
        data, tf.distribute.InputOptions(experimental_fetch_to_device=False)
    )


def jax_devices(options, batch):
    import keras
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # TensorFlow makes the batches; it would take the memory
    process = options.host, len((options.hosts or "").split(","))
    if not 0 <= options.host < process[1]:
        raise ValueError(f"--host is the number, from 0, of one of the --hosts. Received: {options.host}.")
    if options.hosts:
        keras.distribution.initialize(options.hosts, process[1], options.host)
    count = len(keras.distribution.list_devices())
    if count > 1:
        require_divided(batch, count)
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    return Place(process=process)


def require_divided(batch, count):
    if batch % count:
        raise ValueError(f"The batch is divided among the devices. Received: --batch {batch} for {count}.")
