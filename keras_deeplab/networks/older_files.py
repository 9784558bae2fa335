"""What version 0.1 called a network's arguments: files saved by it load, and calls that use them work one release longer."""

import warnings

STEM_ENDS = {"v1c": "", "b": "b"}


def current_arguments(arguments, *, backbone="r50", norms=True, warn=False):
    """The same arguments by their present names.

    `depth` and `stem` became `backbone`, `folded` became its opposite, `norms`.

    Args:
        arguments: of a network's constructor, or what its `get_config` gave.
        backbone, norms: what they are where the old names say nothing.
        warn: whether to warn of the old names: for code, not for files.

    Raises:
        TypeError: if there are other unknown names and `warn` is on, as for any unknown argument.
        ValueError: for a depth or stem that there is not.
    """
    arguments = dict(arguments)
    old = {name: arguments.pop(name) for name in ("depth", "stem", "folded") if name in arguments}
    if warn and arguments:
        raise TypeError(f"DeepLab has no argument {', '.join(arguments)}.")
    if "depth" in old or "stem" in old:
        depth, stem = old.get("depth", 50), old.get("stem", "v1c")
        if depth not in (18, 50, 101) or stem not in STEM_ENDS:
            raise ValueError(f'depth is 18, 50 or 101, stem is "v1c" or "b". Received: {depth!r}, {stem!r}.')
        backbone = f"r{depth}{STEM_ENDS[stem]}"
    if "folded" in old:
        norms = not old["folded"]
    if warn:
        now = f"backbone={backbone!r}" if "folded" not in old else f"backbone={backbone!r}, norms={norms}"
        warnings.warn(
            f"{', '.join(old)} have new names and go with version 0.3: write {now}.", FutureWarning, stacklevel=3
        )
    if old or warn:
        arguments |= {"backbone": backbone, "norms": norms}
    return arguments
