"""Mapillary Vistas 1.2 (Neuhold et al. 2017): street scenes, 66 labels. The last one, "Unlabeled", is ignored."""

from keras_deeplab.data.builders.base import Builder


class Mapillary(Builder, skip_registration=True):
    name = "mapillary"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    The research edition, mapillary-vistas-dataset_public_v2.0.zip (its labels of version 1.2 are read), after
    registration from https://www.mapillary.com/dataset/vistas, as it is or unpacked.
    """
    image = "{place}/images/{name}.jpg"
    label = "{place}/v1.2/labels/{name}.png"
    places = {"train": {"all": "training"}, "val": {"all": "validation"}}
