"""Lets mmsegmentation be imported with mmcv-lite, which lacks mmcv's compiled operations."""

import importlib.machinery
import sys
import types


class NoCompiledOps(types.ModuleType):
    """Has every name that mmsegmentation imports; DeepLab and its transforms call none of them."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def install():
    """To be called before mmsegmentation is imported."""
    sys.modules["mmcv._ext"] = NoCompiledOps("mmcv._ext")
    sys.modules["mmcv._ext"].__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
