"""A step in, a learning rate out: the polynomial decay of the released models (Chen et al. 2017)."""

import keras
from keras import ops

from keras_deeplab.keras_tools import serializable


@serializable
class PolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """(initial - end) * (1 - step / (steps - 1)) ** power + end, with steps counted from 0.

    The last step of the run already has the rate `end`, as in mmengine. Keras's PolynomialDecay reaches it one step later.

    Args:
        initial: learning rate of the first step.
        steps: number of steps of the run.
        end: learning rate of the last step; default 1e-4.
        power: exponent of the decay; default 0.9. With 1 the decay is linear.
    """

    def __init__(self, initial, steps, end=1e-4, power=0.9):
        self.initial, self.steps, self.end, self.power = initial, steps, end, power

    def __call__(self, step):
        dtype = keras.config.floatx()
        progress = ops.minimum(ops.cast(step, dtype) / max(self.steps - 1, 1), 1.0)
        return (self.initial - self.end) * ops.power(1.0 - progress, self.power) + self.end

    def get_config(self):
        return {"initial": self.initial, "steps": self.steps, "end": self.end, "power": self.power}
