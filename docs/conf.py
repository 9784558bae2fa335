"""The documentation site: `sphinx-build -W docs site` after `pip install "keras_deeplab[docs]"`.

The pages of docs/, a page for each released model (zoo.py writes them into docs/zoo/), and the reference from docstrings.
"""

import inspect
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import zoo  # noqa: E402

from keras_deeplab.version import __version__  # noqa: E402

project = "keras_deeplab"
release = __version__
copyright = "the keras_deeplab authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # levels of headings that links may name
default_role = "code"  # what stands in single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# "Returns" too: its text would be cut at the first colon, which is no mark of a type in our docstrings.
napoleon_custom_sections = ["Input shape", "Output shape", "Returns", ("Call arguments", "params_style")]
html_theme = "furo"
html_title = f"keras_deeplab {release}"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}


def signature(_app, what, _name, thing, _options, _arguments, _returns):
    """The arguments of a class's own constructor; Keras's classes would show those of `__new__`."""
    if what != "class":
        return None
    own = inspect.signature(thing.__init__)
    return str(own.replace(parameters=list(own.parameters.values())[1:])), None


def setup(app):
    zoo.write_cards(HERE / "zoo")
    app.connect("autodoc-process-signature", signature)
