"""The public classes: the networks, with the released rows as their presets."""

import os
from typing import Self

from keras_deeplab.catalog import rows
from keras_deeplab.keras_tools import serializable
from keras_deeplab.networks import deeplab
from keras_deeplab.zoo.presets import described, load_preset


class Presets:
    """Adds `presets` and `from_preset` to a network."""

    presets: dict[str, dict] = {}

    @classmethod
    def from_preset(
        cls,
        preset: str,
        *,
        weights: str | os.PathLike | None = None,
        num_classes: int | None = None,
        auxiliary_head: bool = False,
        dropout: float = 0.1,
        output_stride: int | None = None,
        dtype=None,
        sha256: str | None = None,
        load_weights: bool = True,
    ) -> Self:
        """A released model by name.

        Args:
            preset: a row's name (`DeepLabV3Plus.presets` lists them) or a short one, BACKBONE_DATASET, for the row with
                the highest published mIoU of that backbone and data set, such as `"r101_cityscapes"`.
            weights: a file to take in place of the released one: a `.pth` of the released or of your own mmsegmentation
                run (widths and class count follow its shapes, class names its metadata), or a `.keras`.
            num_classes: your own class count; all but the classifiers is kept then, and a warning says so.
            auxiliary_head: whether to build the head that supervises stage 3 in training; the model's output is then
                `{"logits", "auxiliary"}`.
            dropout: share of channels that training drops before each classifier.
            output_stride: 8, 16 or 32, if not the row's own; a coarser one is faster and divides the atrous rates.
            dtype: dtype policy, such as `"mixed_bfloat16"`.
            sha256: SHA-256 in hex that the file must have.
            load_weights: False builds the network with random weights and needs no file.

        Returns:
            A model of this class: RGB 0..255 (N, H, W, 3) in, float32 logits (N, H, W, classes) out.

        Raises:
            ValueError: for a name that is no row of this class, a file that is no checkpoint of this network, or a
                wrong SHA-256.
            FileNotFoundError: if the file is neither in the cache (`KERAS_DEEPLAB_CACHE`, by default
                `~/.keras/keras_deeplab`) nor can be downloaded; the message says where to put which file.
        """
        return load_preset(
            cls,
            preset,
            weights=weights,
            num_classes=num_classes,
            auxiliary_head=auxiliary_head,
            dropout=dropout,
            output_stride=output_stride,
            dtype=dtype,
            sha256=sha256,
            load_weights=load_weights,
        )


@serializable
class DeepLabV3(Presets, deeplab.DeepLabV3):
    __doc__ = str(deeplab.DeepLabV3.__doc__)
    presets = {row.name: described(row) for row in rows.select(class_name="DeepLabV3")}


@serializable
class DeepLabV3Plus(Presets, deeplab.DeepLabV3Plus):
    __doc__ = str(deeplab.DeepLabV3Plus.__doc__)
    presets = {row.name: described(row) for row in rows.select(class_name="DeepLabV3Plus")}


CLASSES = {model.__name__: model for model in (DeepLabV3, DeepLabV3Plus)}


def from_preset(preset: str, **options) -> DeepLabV3 | DeepLabV3Plus:
    """A released model by name, of whichever class its row is.

    Args:
        preset: a row's full name, or CLASS_BACKBONE_DATASET such as `"deeplabv3plus_r101_cityscapes"`.
        options: as for `DeepLabV3Plus.from_preset`.

    Returns:
        A `DeepLabV3` or `DeepLabV3Plus`.

    Raises:
        ValueError, FileNotFoundError: as `DeepLabV3Plus.from_preset`.
    """
    row = rows.find(preset)
    return CLASSES[row.class_name].from_preset(row.name, **options)


def list_presets(
    *, dataset: str | None = None, backbone: str | None = None, class_name: str | None = None, details: bool = False
) -> list:
    """The released models.

    Args:
        dataset: those trained on this data set, such as `"cityscapes"`; None for all.
        backbone: those of this backbone, such as `"r50"`; None for all.
        class_name: `"DeepLabV3"`, `"DeepLabV3Plus"` or None for both.
        details: whether to give what is known of each in place of its name.

    Returns:
        A list of names. With `details` of dicts: name, class_name, dataset, backbone, source, mIoU, mIoU_ms_flip (percent),
        parameters, megabytes (of the file), licence, url, file and more.

    Raises:
        ValueError: for a data set, backbone or class that there is not.

    Example:

    >>> list_presets(dataset="mapillary")
    ['deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280']
    """
    found = rows.select(dataset=dataset, backbone=backbone, class_name=class_name)
    return [described(row) if details else row.name for row in found]
