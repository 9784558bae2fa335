"""Every private name of Keras that the package uses, each behind a name of our own. Elsewhere there is none.

tests/training/test_keras_hooks.py has a test for each, so that a Keras that renames one is noticed by its own message.
"""

import keras


class GradientHooks(keras.optimizers.Optimizer):
    """An optimizer that sees all gradients of a step together: summed over the replicas, before any weight changes.

    Subclasses override `all_gradients`, and on TensorFlow may order the updates by `before_updates`.
    """

    def all_gradients(self, gradients):
        """The gradients to use in place of these, which are those of the global batch."""
        return gradients

    def before_updates(self, gradients):
        """On TensorFlow: the same gradients as the updates are to receive them."""
        return gradients

    def index_of(self, variable):
        """The number of a variable among those that the optimizer was built with."""
        return self._get_variable_index(variable)

    # On TensorFlow the sum over replicas is taken in here; on other backends gradients are global already.
    def _all_reduce_sum_gradients(self, grads_and_vars):
        gradients, variables = zip(*super()._all_reduce_sum_gradients(grads_and_vars), strict=True)
        return list(zip(self.all_gradients(gradients), variables, strict=True))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if keras.backend.backend() == "tensorflow":
            grads = self.before_updates(grads)
        else:
            grads = self.all_gradients(grads)
        super()._backend_update_step(grads, trainable_variables, learning_rate)


def learning_rate_of_step(optimizer, step):
    """The rate that a step, counted from 1, is made with. The optimizer has a schedule."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # inside loss scaling
    return float(optimizer._learning_rate(step - 1))


def write_weights_back(model):
    """On the JAX backend `fit` keeps the weights to itself; this gives them back to the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
