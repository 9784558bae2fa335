"""The command line `keras-deeplab VERB ...`: arguments in, the verb's `main` called. One file a verb.

From a checkout, `python -m recipes.VERB ...` does the same.
"""

import importlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's log; must be set before its import

VERBS = {  # verb: (module, what it does)
    "list": ("keras_deeplab.commands.list", "print the released models with their scores, sizes and licences"),
    "predict": ("keras_deeplab.commands.predict", "write label maps of pictures"),
    "evaluate": ("keras_deeplab.commands.evaluate", "score a model on labelled pictures"),
    "check": ("keras_deeplab.commands.check", "find faults in a folder of pictures and label maps"),
    "train": ("keras_deeplab.commands.train", "train a model by a released recipe, on its data set or your own"),
    "export": ("keras_deeplab.commands.export", "write a SavedModel, LiteRT or ONNX file"),
    "convert": ("keras_deeplab.convert.__main__", "convert a released file to Keras and SavedModel, and check both"),
    "prepare": ("keras_deeplab.commands.prepare", "convert a data set's official download for the other verbs"),
    "demo": ("keras_deeplab.commands.demo", "serve a page on this machine that labels the pictures dropped on it"),
    "cache": ("keras_deeplab.commands.cache", "list, check and remove downloaded weights"),
    "quickstart": ("keras_deeplab.commands.quickstart", "try everything without a download, in about two minutes"),
}


def usage():
    """The text of `keras-deeplab --help`: every verb with what it does."""
    width = max(map(len, VERBS))
    lines = [f"  {verb.ljust(width)}  {description}" for verb, (_, description) in VERBS.items()]
    return "\n".join(["usage: keras-deeplab VERB ...", "", *lines, "", "keras-deeplab VERB --help shows its options."])


def main():
    """Runs the verb that `sys.argv` names. The command `keras-deeplab` calls this function."""
    from keras_deeplab.commands import command_line
    from keras_deeplab.version import __version__

    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
    elif verb == "--version":
        print(__version__)
    elif verb not in VERBS:
        sys.exit(f"error: There is no verb {verb!r}. Verbs: {', '.join(VERBS)}.")
    else:
        command_line.run(lambda options: importlib.import_module(VERBS[verb][0]).main(options), arguments)
