"""The name of a released model in, the model out: the public classes, whose presets are the released models."""

import os
from typing import Self

from keras_deeplab.catalog import rows
from keras_deeplab.keras_tools import serializable
from keras_deeplab.networks import deeplab
from keras_deeplab.zoo.presets import describe, load_preset, require_same_layers


class Presets:
    """Adds `presets` and `from_preset` to a network."""

    presets: dict[str, dict] = {}

    def load_weights(self, filepath, skip_mismatch=False, **options):
        """Keras's `load_weights`, which fills layers by their order in the file.

        Raises:
            ValueError: if the file has other layers than the model, whose weights would get into wrong layers.
        """
        require_same_layers(self, filepath)
        super().load_weights(filepath, skip_mismatch=skip_mismatch, **options)  # type: ignore[misc]

    @classmethod
    def from_preset(
        cls,
        preset: str,
        *,
        weights: str | os.PathLike | None = None,
        num_classes: int | None = None,
        out_channels: int | None = None,
        threshold: float | None = None,
        auxiliary_head: bool = False,
        dropout: float | None = None,
        output_stride: int | None = None,
        dtype=None,
        sha256: str | None = None,
        load_weights: bool = True,
        ema: bool = False,
    ) -> Self:
        """A released model by name.

        Args:
            preset: the name of a released model (`DeepLabV3Plus.presets` lists them), or a short name, BACKBONE_DATASET,
                such as `"r101_cityscapes"`: the model with the highest published mIoU of that backbone and data set.
            weights: a file to load in place of the released one. Either a `.pth` or safetensors file, released or of your
                own mmsegmentation run (the widths and the number of classes follow its shapes, the class names its
                metadata), or a `.keras` file. For torchvision's models, also a file of its reference training script. For a
                model of DeepLab's authors, a TensorFlow checkpoint (`model.ckpt-30000`), also of your own run, a frozen graph
                (`.pb`) or a `.tar.gz` of them. Default None.
            num_classes: the number of your own classes. If it differs from that of the file, the classifiers start from
                random weights, all other weights are loaded, and a warning says so. Default None, the number of the file.
            out_channels: 1 for a single output that tells two classes apart by its sigmoid; the number of classes for an
                output each. Default None, as in the file: a file with one output gives a model of two classes.
            threshold: the probability above which the single output means class 1. Default None: the configuration's in
                the file's metadata if it is there, otherwise 0.3, the original's.
            auxiliary_head: whether to build the head that supervises stage 3 in training; the model's output is then
                `{"logits", "auxiliary"}`. It starts from random weights, with a warning, if the file has none. Default
                False.
            dropout: share of the channels that training sets to zero before each classifier. Default None, as the source has
                it: 0.1; of torchvision 0.5, of the values after ASPP, and 0.1 in its auxiliary head.
            output_stride: 8, 16 or 32. A larger one than the model's own is faster; the atrous rates are divided
                accordingly. Default None, the model's own.
            dtype: dtype policy, such as `"mixed_bfloat16"`. Default None: Keras's global policy, or that of a `.keras` file.
            sha256: SHA-256 in hex that the file must have. Default None, no check.
            load_weights: False builds the network with random weights and needs no file. Default True.
            ema: whether to take the other set of weights that an EMA hook keeps in a `.pth` file (see `load_checkpoint`), or
                the moving averages in a TensorFlow checkpoint. Default False, the weights that the original tests with.

        Returns:
            A model of this class: RGB 0..255 (N, H, W, 3) in, float32 logits (N, H, W, classes) out.

        Raises:
            ValueError: if no released model of this class has the name, the file is not a checkpoint of this network, or its
                SHA-256 is wrong.
            FileNotFoundError: if the file is not in the cache (`KERAS_DEEPLAB_CACHE`, by default `~/.keras/keras_deeplab`)
                and cannot be downloaded. The message says which file to put where.
        """
        return load_preset(
            cls,
            preset,
            weights=weights,
            num_classes=num_classes,
            out_channels=out_channels,
            threshold=threshold,
            auxiliary_head=auxiliary_head,
            dropout=dropout,
            output_stride=output_stride,
            dtype=dtype,
            sha256=sha256,
            load_weights=load_weights,
            ema=ema,
        )


@serializable
class DeepLabV3(Presets, deeplab.DeepLabV3):
    __doc__ = str(deeplab.DeepLabV3.__doc__)
    presets = {row.name: describe(row) for row in rows.select(class_name="DeepLabV3")}


@serializable
class DeepLabV3Plus(Presets, deeplab.DeepLabV3Plus):
    __doc__ = str(deeplab.DeepLabV3Plus.__doc__)
    presets = {row.name: describe(row) for row in rows.select(class_name="DeepLabV3Plus")}


CLASSES = {model.__name__: model for model in (DeepLabV3, DeepLabV3Plus)}


def from_preset(preset: str, **options) -> DeepLabV3 | DeepLabV3Plus:
    """A released model by name, of either class.

    Args:
        preset: the full name of a released model, or CLASS_BACKBONE_DATASET such as `"deeplabv3plus_r101_cityscapes"`.
        options: as for `DeepLabV3Plus.from_preset`.

    Returns:
        A `DeepLabV3` or `DeepLabV3Plus`.

    Raises:
        ValueError, FileNotFoundError: as for `DeepLabV3Plus.from_preset`.
        TypeError: if `preset` is not a string.
    """
    row = rows.find(preset)
    return CLASSES[row.class_name].from_preset(row.name, **options)


def list_presets(
    *, dataset: str | None = None, backbone: str | None = None, class_name: str | None = None, details: bool = False
) -> list:
    """The released models.

    Args:
        dataset: only models trained on this data set, such as `"cityscapes"`. Default None, all.
        backbone: only models with this backbone, such as `"r50"`. Default None, all.
        class_name: `"DeepLabV3"` or `"DeepLabV3Plus"`. Default None, both.
        details: whether to return a dict of facts for each model in place of its name. Default False.

    Returns:
        A list of names. With `details` a list of dicts: name, class_name, dataset, backbone, source, mIoU, mIoU_ms_flip
        (percent), parameters, megabytes (of the file), licence, url, file and more.

    Raises:
        ValueError: for a data set, backbone or class that no released model has.

    Example:

    >>> list_presets(dataset="mapillary")
    ['deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280']
    """
    selected = rows.select(dataset=dataset, backbone=backbone, class_name=class_name)
    return [describe(row) if details else row.name for row in selected]
