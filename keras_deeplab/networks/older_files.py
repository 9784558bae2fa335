"""A network's arguments by the names of version 0.1 in, by their present names out.

Files that version 0.1 saved stay readable. Calls with the old names work until version 0.3 and give a warning.
"""

import warnings

STEM_SUFFIXES = {"v1c": "", "b": "b"}  # {old `stem`: end of the backbone's name}


def current_arguments(arguments, *, backbone="r50", norms=True, warn=False):
    """The same arguments by their present names.

    `backbone` replaces `depth` and `stem`; `norms` replaces `folded` and is its opposite.

    Args:
        arguments: dict of arguments of a network's constructor, or what its `get_config` returned.
        backbone, norms: their values if no old name sets them. Default "r50" and True.
        warn: whether `arguments` are those of a call: old names then give a `FutureWarning`, and unknown names an error.
            Default False, for the arguments in a file.

    Returns:
        a dict of arguments.

    Raises:
        TypeError: for an unknown name, if `warn` is true.
        ValueError: for a depth or stem that does not exist.
    """
    arguments = dict(arguments)
    old = {name: arguments.pop(name) for name in ("depth", "stem", "folded") if name in arguments}
    if warn and arguments:
        raise TypeError(f"DeepLab has no argument {', '.join(arguments)}.")
    if "depth" in old or "stem" in old:
        depth, stem = old.get("depth", 50), old.get("stem", "v1c")
        if depth not in (18, 50, 101) or stem not in STEM_SUFFIXES:
            raise ValueError(f'depth must be 18, 50 or 101, stem "v1c" or "b". Received: {depth!r}, {stem!r}.')
        backbone = f"r{depth}{STEM_SUFFIXES[stem]}"
    if "folded" in old:
        norms = not old["folded"]
    if warn:
        replacement = f"backbone={backbone!r}" if "folded" not in old else f"backbone={backbone!r}, norms={norms}"
        warnings.warn(
            f"Version 0.3 removes the old argument names. Received: {', '.join(old)}. Write {replacement} instead.",
            FutureWarning,
            stacklevel=3,
        )
    if old or warn:
        arguments |= {"backbone": backbone, "norms": norms}
    return arguments
