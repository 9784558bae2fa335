"""Files with one output a pixel: what they tell in, the arguments of a model of two classes out.

mmsegmentation turns one output into labels by its sigmoid: label 1 where it exceeds the head's threshold, otherwise label 0.
It does so for its documented set-up (num_classes=2, out_channels=1) and for num_classes=1 alike. So both are models of two
classes.
"""

import re
import warnings

THRESHOLD = 0.3  # the original's where the configuration has none
MAX_TEXT = 2**20  # characters of a configuration
TOKEN = re.compile(
    r"""'(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" | \#[^\n]*     # strings and comments, which are skipped
    | (?P<name>\w+)\s*=\s*(?P<opening>dict\s*\() | (?P<key>\w+)\s*=\s*(?P<number>\d*\.\d+(?:e-?\d+)?)(?=\s*[,)])
    | (?P<bracket>[()\[\]{}])""",
    re.VERBOSE,
)


def threshold_in(meta):
    """The threshold of the decode head in the text of a configuration, or None if it is not plainly there."""
    for key in ("cfg", "config"):  # of mmengine, of older versions
        text = meta.get(key)
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            continue
        path = []  # the names of the dicts that are open
        for token in TOKEN.finditer(text):
            if token["opening"] or token["bracket"] in ("(", "[", "{"):
                path.append(token["name"])
            elif token["bracket"]:
                path = path[:-1]
            elif token["key"] == "threshold" and path == ["model", "decode_head"] and 0 < float(token["number"]) < 1:
                return float(token["number"])
    return None


def two_classes(names, colours, source):
    """Names and colours of both classes, where the file names both, or only class 1."""
    if names and len(names) == 1:
        warnings.warn(
            f"{source} has one output and one class, {names[0]!r}. The model has two classes: {names[0]!r} where the "
            "sigmoid of the output exceeds the threshold, and 'background'.",
            stacklevel=5,
        )
        return ("background", names[0]), [(0, 0, 0), *colours] if colours and len(colours) == 1 else None
    return names, colours
