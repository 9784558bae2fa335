"""Modules are found under their old names, with a warning, and are the same modules."""

import importlib
import sys

import pytest

from keras_deeplab import renamed


@pytest.mark.parametrize("old, new", renamed.MODULES.items())
def test_an_old_module_name_gives_the_present_module_and_warns(old, new, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(FutureWarning, match=f"{old} is called {new} now; the old name goes with version 0.3"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(new) and module.__spec__.name == module.__name__ == new


def test_names_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("keras_deeplab.zoo.tables")
