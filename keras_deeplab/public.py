"""Everything that `import keras_deeplab` offers. The names are stable: one that changes works one release longer."""

from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.data.folder import check as check_folder
from keras_deeplab.data.pairs import open_prepared
from keras_deeplab.data.pipeline import evaluation_data, training_data
from keras_deeplab.evaluation import metrics
from keras_deeplab.evaluation.evaluate import evaluate
from keras_deeplab.inference.distributed import segment_with_beam
from keras_deeplab.inference.folders import segment_files, segment_folder
from keras_deeplab.inference.rasters import segment_raster
from keras_deeplab.inference.segment import segment
from keras_deeplab.inference.video import segment_video
from keras_deeplab.networks.fold import fold_norms
from keras_deeplab.pictures.draw import overlay, palette_image
from keras_deeplab.pictures.read import read_image
from keras_deeplab.serving.export import export_saved_model
from keras_deeplab.serving.litert_onnx import export_litert, export_onnx
from keras_deeplab.serving.openvino_ir import export_openvino
from keras_deeplab.training import losses, optimizers, schedules
from keras_deeplab.version import __version__
from keras_deeplab.zoo.formats.checkpoint import load_checkpoint
from keras_deeplab.zoo.models import DeepLabV3, DeepLabV3Plus, from_preset, list_presets
from keras_deeplab.zoo.presets import load_backbone

__all__ = [
    "DeepLabV3",
    "DeepLabV3Plus",
    "Protocol",
    "__version__",
    "check_folder",
    "evaluate",
    "evaluation_data",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "fold_norms",
    "from_preset",
    "list_presets",
    "load_backbone",
    "load_checkpoint",
    "losses",
    "metrics",
    "open_prepared",
    "optimizers",
    "overlay",
    "palette_image",
    "read_image",
    "schedules",
    "segment",
    "segment_files",
    "segment_folder",
    "segment_raster",
    "segment_video",
    "segment_with_beam",
    "training_data",
]
