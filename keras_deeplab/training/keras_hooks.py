"""The private names of Keras that the package uses, each behind a name of our own. No other file uses one.

tests/training/test_keras_hooks.py has a test for each, so that the tests fail if a version of Keras renames one.
"""

import keras


class GradientHooks(keras.optimizers.Optimizer):
    """An optimizer that gets all gradients of a step together, summed over the replicas, before any weight changes.

    Subclasses override `all_gradients`. On TensorFlow they may also set the order of the updates by `before_updates`.
    """

    def all_gradients(self, gradients):
        """Takes the gradients of the global batch and returns those to use in their place."""
        return gradients

    def before_updates(self, gradients):
        """On TensorFlow: takes the gradients from `all_gradients` and returns equal ones, which the updates then get."""
        return gradients

    def index_of(self, variable):
        """The number of a variable among those that the optimizer was built with."""
        return self._get_variable_index(variable)

    def decays(self, variable):
        """Whether weight decay applies to a variable: not if `exclude_from_weight_decay` named it."""
        return self._use_weight_decay(variable)

    # On TensorFlow the gradients are summed over the replicas here. On other backends they are global already.
    def _all_reduce_sum_gradients(self, grads_and_vars):
        import tensorflow as tf

        gradients, variables = zip(*super()._all_reduce_sum_gradients(grads_and_vars), strict=True)
        dense = [tf.convert_to_tensor(g) for g in gradients]  # that of an embedding is a list of rows
        return list(zip(self.all_gradients(dense), variables, strict=True))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if keras.backend.backend() == "tensorflow":
            grads = self.before_updates(grads)
        else:
            grads = self.all_gradients(grads)
        super()._backend_update_step(grads, trainable_variables, learning_rate)


def learning_rate_of_step(optimizer, step):
    """The learning rate of a step, counted from 1. The optimizer must have a schedule."""
    optimizer = getattr(
        optimizer, "inner_optimizer", optimizer
    )  # loss scaling wraps the optimizer that has the schedule
    return float(optimizer._learning_rate(step - 1))


def write_weights_back(model):
    """Copies the state of `fit` into the variables of model and optimizer. On JAX, `fit` itself does so only at its end."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
