"""The training recipe of a released model, and methods that compile and feed a model by it."""

import dataclasses
from dataclasses import dataclass

from keras_deeplab.catalog.datasets import TRAINED_ON
from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.catalog.released import Released

LOSSES = ("cross-entropy", "dice", "focal")
FLOAT16_SCALE = 2.0**15  # first loss scale of float16 if the row has none of its own


@dataclass(frozen=True)
class Recipe:
    """How a released row was trained, from its configuration in mmsegmentation, or from the instructions of its source.

    Attributes:
        row: the released model, a `Row` of a file in `keras_deeplab.catalog`.
        batch_per_device: pictures of a step on each device.
        resize_base: long, short side in pixels of the box that pictures are resized to fit, before the random ratio; by
            default the box that the row is tested with.
        devices: number of GPUs that the released model was trained on. Batch norms were synchronised over them.
        resize_ratio: smallest and largest factor of `resize_base`.
        cat_max_ratio: a crop is drawn again while one class covers this share of its labelled pixels, or more.
        flip: probability of mirroring a crop.
        photometric: whether brightness, contrast, saturation and hue are changed at random.
        optimizer: "SGD" or "AdamW", as PyTorch defines them.
        learning_rate, end_learning_rate: of the first and the last step. Between them the rate falls by
            (1 - progress) ** 0.9.
        reaches_end: whether the last step has the rate `end_learning_rate`, as in mmengine; otherwise the step after it
            would, as with PyTorch's schedules.
        momentum: of SGD.
        weight_decay: of every parameter, also of norms and biases, unless `decay_kernels_only`.
        decay_kernels_only: whether only the kernels of convolutions decay, and of depthwise ones not even these.
        bias_multiplier: factor of the learning rate of the classifiers' biases.
        backbone_multiplier: factor of the backbone's learning rate.
        clip_norm: largest norm of all gradients together, or None for no limit.
        ohem_min_kept: pixels per picture that online hard example mining keeps, or None to keep all.
        loss_scale: loss scale of a row that was trained in float16, or None for a row trained in float32.
        avg_non_ignore: whether the cross-entropy is averaged over the labelled pixels alone.
        auxiliary_head: whether training has the head that supervises the third stage.
        auxiliary_weight: of its loss.
        auxiliary_multiplier: factor of its learning rate.
        iterations: steps of the whole training run; by default the row's.
    """

    row: Released
    batch_per_device: int
    resize_base: tuple[int, int] | None = None
    devices: int = 4
    resize_ratio: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    optimizer: str = "SGD"
    learning_rate: float = 0.01
    end_learning_rate: float = 1e-4
    reaches_end: bool = True
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_kernels_only: bool = False
    bias_multiplier: float = 1.0
    backbone_multiplier: float = 1.0
    clip_norm: float | None = None
    ohem_min_kept: int | None = None
    loss_scale: float | None = None
    avg_non_ignore: bool = False
    auxiliary_head: bool = True
    auxiliary_weight: float = 0.4
    auxiliary_multiplier: float = 1.0
    iterations: int | None = None

    def __post_init__(self):
        if self.resize_base is None:
            object.__setattr__(self, "resize_base", self.row.protocol.resize)

    @property
    def crop(self):
        """Height, width in pixels."""
        return self.row.crop

    @property
    def steps(self):
        """Steps of the whole training run."""
        return self.iterations or self.row.iterations

    @property
    def num_classes(self):
        """The number of classes of the row's data set. The authors' rows of ADE20K have one output more, for "no class"."""
        return TRAINED_ON[self.row.dataset].num_classes

    @property
    def batch(self):
        """Pictures of a step, over all devices."""
        return self.batch_per_device * self.devices

    @property
    def reduce_zero_label(self):
        """Whether label 0 is ignored and classes count from 1."""
        return TRAINED_ON[self.row.dataset].reduce_zero_label

    def replace(self, **changes):
        """A copy of the recipe with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def compile(
        self, model, steps=None, learning_rate=None, *, class_weight=None, multipliers=None, freeze=(), loss=None
    ):
        """Compiles a model with the row's optimizer, schedule and losses.

        Args:
            model: a `DeepLabV3` or `DeepLabV3Plus`. If it has an auxiliary head, that loss has the weight `auxiliary_weight`.
            steps: length of the schedule; default the row's.
            learning_rate: of the first step; default the row's. Scale it with the batch if that is not `batch`.
            class_weight: a factor for each class's loss; default 1.
            multipliers: {beginning of a variable's path: factor of its learning rate}, beside the row's own.
            freeze: the parts that keep their weights: "backbone", "norms" or both; all other layers are trained, also
                those that were frozen before. Frozen norms use their running statistics.
            loss: a loss in place of the row's, for both heads, such as `keras_deeplab.losses.CombinedLoss`; or a dict
                {name: weight} of "cross-entropy", "dice" and "focal", whose weighted sum is the loss. They take the softmax
                of several outputs (focal: the sigmoid of each), and the sigmoid of one output. Default cross-entropy alone.

        Raises:
            ValueError: if `freeze` or `loss` has other names, or both a loss and `class_weight` are given.
        """
        import keras

        from keras_deeplab.networks.decoder import AUXILIARY_HEADS
        from keras_deeplab.training import optimizers, schedules

        first_rate = self.learning_rate if learning_rate is None else learning_rate
        decay_steps = (steps or self.steps) + (not self.reaches_end)
        rate = schedules.PolynomialDecay(first_rate, decay_steps, min(self.end_learning_rate, first_rate))
        freeze_layers(model, freeze)
        multipliers = dict(multipliers or {})
        if self.backbone_multiplier != 1.0 and "backbone" not in freeze:
            multipliers.setdefault(backbone_prefix(model), self.backbone_multiplier)
        if self.auxiliary_multiplier != 1.0:
            multipliers |= {
                prefix: self.auxiliary_multiplier
                for prefix in set(AUXILIARY_HEADS) - multipliers.keys()
                if any(layer.name.startswith(prefix) for layer in model.layers)
            }
        if self.bias_multiplier != 1.0:
            for path in (variable.path for variable in model.trainable_variables if variable.name == "bias"):
                factor = next((multipliers[prefix] for prefix in multipliers if path.startswith(prefix)), 1.0)
                multipliers = {path: factor * self.bias_multiplier, **multipliers}
        options = dict(
            weight_decay=self.weight_decay,
            decay_kernels_only=self.decay_kernels_only,
            multipliers=multipliers,
            clip_norm=self.clip_norm,
        )
        if self.optimizer == "AdamW":
            optimizer = optimizers.AdamW(rate, **options)
        else:
            optimizer = optimizers.SGD(rate, self.momentum, **options)
        if any(layer.compute_dtype == "float16" for layer in model.layers):
            optimizer = optimizers.LossScaleOptimizer(optimizer, initial_scale=self.loss_scale or FLOAT16_SCALE)
        if loss is None or isinstance(loss, dict) and all(isinstance(weight, (int, float)) for weight in loss.values()):
            loss = self._losses(model, loss or {"cross-entropy": 1.0}, class_weight)
        elif class_weight is not None:
            raise ValueError("`class_weight` is for the recipe's own loss. Received: a loss too. Give it to your loss.")
        # With TensorFlow, XLA slows atrous convolutions on a CPU and compiles again for every size of picture.
        jit = keras.backend.backend() == "jax"
        heads = {"logits": 1.0, "auxiliary": self.auxiliary_weight} if "auxiliary" in model.output_names else None
        model.compile(optimizer, loss=loss, loss_weights=heads, jit_compile=jit)

    def _losses(self, model, weights, class_weight):
        """The weighted sum of named losses for each head; the decode head alone mines hard pixels."""
        if unknown := set(weights) - set(LOSSES):
            raise ValueError(f"A loss must be one of {', '.join(LOSSES)}. Received: {', '.join(sorted(unknown))}.")
        heads = {name: self.ohem_min_kept if name == "logits" else None for name in model.output_names}
        options = dict(class_weight=class_weight, avg_non_ignore=self.avg_non_ignore)
        losses = {
            head: _combined(model.threshold is not None, weights, min_kept=heads[head], **options) for head in heads
        }
        return losses if "auxiliary" in losses else next(iter(losses.values()))

    def protocol(self, resize=None, crop=None):
        """The test protocol that fits a training: the row's own, if it is trained as the row was.

        Args:
            resize: as for `training_data`.
            crop: height, width in pixels that the model is trained on; default the row's. A row that is tested in a sliding
                window gets windows of this size, with steps of two thirds of it.

        Returns:
            `keras_deeplab.Protocol`.
        """
        row = self.row.protocol
        box = row.resize if resize is None else None if resize == "own" else tuple(resize)
        if row.mode == "whole" or crop is None or tuple(crop) == tuple(self.crop):
            return dataclasses.replace(row, resize=box)
        return Protocol("slide", crop=crop, stride=tuple(max(1, round(side * 2 / 3)) for side in crop), resize=box)

    def training_data(
        self,
        images,
        labels=None,
        batch=None,
        seed=0,
        start_step=0,
        *,
        resize=None,
        crop=None,
        reduce_zero_label=None,
        **options,
    ):
        """Endless batches, augmented as for the row, by `keras_deeplab.data.pipeline.training_data`.

        Args:
            images, labels: folders, or lists of files in the same order; or what `open_prepared` gives as `images`.
            batch: pictures of a step, over all devices; default the row's.
            seed: the same seed gives the same batches.
            start_step: number of batches to skip at the start; they are not made.
            resize: (long, short) side in pixels of the box that pictures are resized to fit, before the random ratio; "own"
                for the size of each picture itself; default the row's box, which enlarges small pictures and shrinks large
                ones.
            crop: height, width in pixels; default the row's.
            reduce_zero_label: whether label 0 is ignored and classes count from 1; default the row's.
            options: `input_context`, `process`, `augment`, `skip_corrupt`, `label_map`, `num_classes`,
                `allow_missing_classes`.

        Returns:
            `tf.data.Dataset` of images (N, height, width, 3) float32 and labels (N, height, width) uint8.
        """
        from keras_deeplab.data import pipeline
        from keras_deeplab.data.pairs import find_pairs

        pairs = find_pairs(images, labels)
        if reduce_zero_label is None:
            reduce_zero_label = self.reduce_zero_label and not pairs.train_ids
        return pipeline.training_data(
            pairs,
            resize_base=self.resize_base if resize is None else None if resize == "own" else resize,
            resize_ratio=self.resize_ratio,
            crop=self.crop if crop is None else crop,
            cat_max_ratio=self.cat_max_ratio,
            flip=self.flip,
            photometric=self.photometric,
            reduce_zero_label=reduce_zero_label,
            batch=self.batch if batch is None else batch,
            seed=seed,
            start_step=start_step,
            **options,
        )


def _combined(one_output, weights, *, class_weight, min_kept, avg_non_ignore):
    """The weighted sum of the named losses of one head; a single loss of the weight 1 by itself."""
    from keras_deeplab.training import losses

    exact = {"epsilon": 0.0} if avg_non_ignore else {}  # the sources whose recipes average so add no epsilon
    made = {
        "cross-entropy": lambda: (
            losses.SigmoidCrossEntropy(class_weight, avg_non_ignore=avg_non_ignore)
            if one_output
            else losses.PixelCrossEntropy(min_kept, class_weight, avg_non_ignore=avg_non_ignore, **exact)
        ),
        "dice": lambda: losses.DiceLoss(use_sigmoid=one_output),
        "focal": lambda: losses.FocalLoss(class_weight=class_weight),
    }
    parts = [made[name]() for name in weights]
    if list(weights.values()) == [1.0]:
        return parts[0]
    return losses.CombinedLoss(parts, weights=list(weights.values()))


def backbone_prefix(model):
    """The beginning of the names of the layers of a model's backbone."""
    from keras_deeplab.networks.backbones import BACKBONES

    return BACKBONES[model.get_config()["backbone"]].prefix


def freeze_layers(model, parts):
    """Freezes parts of a model, and no others.

    Args:
        parts: "backbone", "norms" or both, in a list.
    """
    import keras

    if isinstance(parts, str) or set(parts) - {"backbone", "norms"}:
        raise ValueError(f'freeze must be a list of "backbone", "norms" or both. Received: {parts!r}.')
    for layer in model.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        in_backbone = layer.name.startswith(backbone_prefix(model))
        layer.trainable = not (("backbone" in parts and in_backbone) or ("norms" in parts and is_norm))
