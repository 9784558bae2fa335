"""DeepLabV3 and DeepLabV3+ for Keras 3: the models that OpenMMLab released, provably the same."""

from keras_deeplab.data.pairs import open_prepared
from keras_deeplab.inference.drawing import overlay, palette_image
from keras_deeplab.inference.evaluate import evaluate
from keras_deeplab.inference.segment import segment
from keras_deeplab.networks.deeplab import DeepLabV3, DeepLabV3Plus
from keras_deeplab.networks.fold import fold_norms
from keras_deeplab.serving.export import export_saved_model
from keras_deeplab.training import losses, optimizers, schedules  # noqa: F401 (so that saved models find them)
from keras_deeplab.version import __version__
from keras_deeplab.zoo.checkpoint import load_checkpoint
from keras_deeplab.zoo.presets import load_backbone
from keras_deeplab.zoo.protocol import Protocol

__all__ = [
    "DeepLabV3",
    "DeepLabV3Plus",
    "Protocol",
    "evaluate",
    "export_saved_model",
    "fold_norms",
    "load_backbone",
    "load_checkpoint",
    "open_prepared",
    "overlay",
    "palette_image",
    "segment",
    "__version__",
]
