"""Options of the command line in, the devices to train on out: one, several of this machine, or those of several machines."""

import contextlib
import os
from dataclasses import dataclass
from typing import Any


@dataclass
class Devices:
    """The devices to train on.

    Attributes:
        strategy: a `tf.distribute.Strategy`, or None.
        process: (index, count) of the processes that share each batch.
    """

    strategy: Any = None
    process: tuple[int, int] = (0, 1)

    @property
    def scope(self):
        """The context to build the model in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def distribute(self, data):
        """The data set `data` in the form that `fit` needs on these devices."""
        return distribute_over_cpu_parts(self.strategy, data) if self.strategy and not gpus() else data

    @property
    def is_first(self):
        """Whether this process prints, validates and saves. The other processes only train."""
        return self.process[0] == 0

    def check_same_step(self, step):
        """Waits for all processes. Raises `ValueError` if another process is at another step."""
        if self.process[1] > 1:
            import numpy as np
            from jax.experimental import multihost_utils

            steps = multihost_utils.process_allgather(np.array(step)).tolist()
            if len(set(steps)) > 1:
                raise ValueError(
                    f"All hosts must read and write the same folder --to. Received: checkpoints of the steps {steps}. "
                    "Share one folder among the hosts."
                )


def choose_devices(options, batch):
    """The `Devices` that the options of the command line name; without options, all GPUs of this machine.

    Args:
        options: with the attributes `devices`, `hosts` and `host`.
        batch: pictures of a step over all devices.

    Raises:
        ValueError: if the backend or this machine does not have these devices, or they cannot share the batch equally.
    """
    import keras
    import tensorflow as tf

    backend = keras.backend.backend()
    if (options.hosts or options.host) and backend != "jax":
        raise ValueError(f"--hosts needs the JAX backend. Received: {backend}. Set KERAS_BACKEND=jax.")
    if backend == "tensorflow" and "TF_CONFIG" in os.environ:
        raise ValueError(
            "Keras 3 cannot train on several machines with TensorFlow. Received: the variable TF_CONFIG. Use the JAX "
            "backend with keras.distribution (docs/training.md), or unset TF_CONFIG to train on this machine only."
        )
    if options.devices and backend != "tensorflow":
        raise ValueError(
            f"--devices needs the TensorFlow backend. Received: {backend}. Leave --devices out. JAX uses all GPUs that it "
            "sees; the variable CUDA_VISIBLE_DEVICES chooses them."
        )
    if backend == "jax":
        return choose_jax_devices(options, batch)
    gpu_count = len(gpus()) if backend == "tensorflow" else 0
    count = options.devices or max(1, gpu_count)
    if gpu_count and count > gpu_count:
        raise ValueError(f"--devices must be at most {gpu_count}, the GPUs of this machine. Received: {count}.")
    if count == 1:
        return Devices()
    check_divisible(batch, count)
    if gpu_count:
        return Devices(tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(count)]))
    return Devices(strategy_over_cpu_parts(count))


def gpus():
    """The GPUs that TensorFlow sees."""
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def strategy_over_cpu_parts(count):
    """A strategy whose replicas are `count` equal parts of the processor. Call it before TensorFlow uses the processor."""
    import tensorflow as tf

    part = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [part] * count)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def distribute_over_cpu_parts(strategy, data):
    """Splits each batch of `data` among the parts of the processor.

    Prefetching to the devices, TensorFlow's default, is off: with it the end of `fit` can wait for a minute (TensorFlow
    2.21).
    """
    import tensorflow as tf

    return strategy.experimental_distribute_dataset(
        data, tf.distribute.InputOptions(experimental_fetch_to_device=False)
    )


def choose_jax_devices(options, batch):
    """All devices of this machine or of `--hosts`. On several devices, Keras is set to data-parallel training."""
    import keras
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # TensorFlow only makes the batches, but would reserve the GPUs' memory
    process = options.host, len((options.hosts or "").split(","))
    if not 0 <= options.host < process[1]:
        raise ValueError(
            f"--host must be the number of one of the --hosts, from 0 to {process[1] - 1}. Received: {options.host}."
        )
    if options.hosts:
        keras.distribution.initialize(options.hosts, process[1], options.host)
    count = len(keras.distribution.list_devices())
    if count > 1:
        check_divisible(batch, count)
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    return Devices(process=process)


def check_divisible(batch, count):
    """Raises `ValueError` if `count` devices cannot share a batch equally."""
    if batch % count:
        raise ValueError(f"--batch must be a multiple of the number of devices, {count}. Received: {batch}.")
