"""Modules under their names of version 0.1: importing one gives the present module and warns. They go with version 0.3."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings

MODULES = {
    "keras_deeplab.data.catalog": "keras_deeplab.catalog.datasets",
    "keras_deeplab.inference.decode": "keras_deeplab.pictures.decode",
    "keras_deeplab.inference.drawing": "keras_deeplab.pictures.draw",
    "keras_deeplab.inference.evaluate": "keras_deeplab.evaluation.evaluate",
    "keras_deeplab.inference.images": "keras_deeplab.pictures.read",
    "keras_deeplab.inference.resize": "keras_deeplab.pictures.resize",
    "keras_deeplab.networks.resnet": "keras_deeplab.networks.backbones.resnet",
    "keras_deeplab.networks.winograd": "keras_deeplab.networks.fast.winograd",
    "keras_deeplab.serving.converted": "keras_deeplab.serving.litert_onnx",
    "keras_deeplab.serving.fixed": "keras_deeplab.serving.fixed_size",
    "keras_deeplab.training.metrics": "keras_deeplab.evaluation.metrics",
    "keras_deeplab.zoo.checkpoint": "keras_deeplab.zoo.formats.torch_file",
    "keras_deeplab.zoo.protocol": "keras_deeplab.catalog.protocol",
    "keras_deeplab.zoo.table": "keras_deeplab.catalog.rows",
}


class Renamed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name."""

    def find_spec(self, fullname, path=None, target=None):
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec):
        new = MODULES[spec.name]
        warnings.warn(
            f"{spec.name} is called {new} now; the old name goes with version 0.3.", FutureWarning, stacklevel=2
        )
        module = importlib.import_module(new)
        self.spec = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self.spec  # the import system has put the old name's there


def install():
    """Makes the old names importable."""
    if not any(isinstance(finder, Renamed) for finder in sys.meta_path):
        sys.meta_path.append(Renamed())
