"""What rows of every source of released models have in common."""

from keras_deeplab.catalog.datasets import TRAINED_ON


class Released:
    """The base class of the rows of a source. A row has `backbone` and `dataset`.

    Attributes:
        publisher: who released the weights.
        weights_licence: the licence under which they did.
    """

    publisher: str
    weights_licence = "Apache-2.0"

    @property
    def short_name(self):
        """BACKBONE_DATASET. Rows with other crops, strides and schedules have the same; see `rows.short_names`."""
        return f"{self.backbone}_{self.dataset}"

    @property
    def recipe(self):
        """The file in `recipes` that says how the model was trained: that of its data set, or of its source."""
        return self.dataset

    @property
    def checkpoint_licence(self):
        """The licence of the weights, and the terms of the data set that the model was trained on."""
        dataset = TRAINED_ON[self.dataset]
        return f"{self.weights_licence} ({self.publisher}). Trained on {dataset.title}: {dataset.licence}"
