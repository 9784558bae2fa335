"""Test settings in, a checked protocol out: whole pictures or sliding windows, and the size of the pictures."""

from dataclasses import asdict, dataclass
from operator import index

MODES = ("whole", "slide")


@dataclass(frozen=True)
class Protocol:
    """The test protocol of a model.

    Args:
        mode: `"whole"` (one pass over the picture) or `"slide"` (overlapping windows, whose logits are averaged).
        crop: height, width of a window in pixels. Only for `"slide"`.
        stride: height, width in pixels from one window to the next, at most `crop`. Only for `"slide"`.
        resize: long and short side in pixels, in any order. The picture is resized to fit into this box and keeps its aspect
            ratio. Default `None`: the picture keeps its size.

    Raises:
        ValueError: if the fields contradict each other.

    Example:

    >>> Protocol("slide", crop=(769, 769), stride=(513, 513), resize=(2049, 1025))
    """

    mode: str
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be 'whole' or 'slide'. Received: mode={self.mode!r}.")
        for field in ("crop", "stride", "resize"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, _pixel_pair(field, value))
        if self.resize:
            object.__setattr__(self, "resize", (max(self.resize), min(self.resize)))
        if self.mode == "whole" and (self.crop or self.stride):
            raise ValueError(
                f"Mode 'whole' has no windows, so `crop` and `stride` must be left out. "
                f"Received: crop={self.crop}, stride={self.stride}. Leave them out, or use mode='slide'."
            )
        if self.mode == "slide":
            self._check_windows()

    def _check_windows(self):
        if not self.crop or not self.stride:
            raise ValueError(
                f"Mode 'slide' needs `crop` and `stride`, each (height, width) in pixels. "
                f"Received: crop={self.crop}, stride={self.stride}."
            )
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise ValueError(
                f"`stride` must be at most `crop`: a larger one leaves pixels out between two windows. "
                f"Received: crop={self.crop}, stride={self.stride}."
            )

    def to_dict(self):
        """The protocol as a dict of JSON values, which `from_dict` reads."""
        fields = asdict(self).items()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields}

    @classmethod
    def from_dict(cls, config):
        """The protocol that `to_dict` wrote. Raises `ValueError` for anything else."""
        fields = cls.__dataclass_fields__
        if not isinstance(config, dict) or "mode" not in config or not set(config) <= set(fields):
            raise ValueError(
                f"A protocol must be a dict with 'mode' and, where they apply, 'crop', 'stride' and 'resize'. "
                f"Received: {config!r}."
            )
        return cls(**config)


def _pixel_pair(field, value):
    """`[769, 769]` -> `(769, 769)`. Raises `ValueError` unless it has two positive whole numbers."""
    try:
        pair = tuple(index(side) for side in value)
    except TypeError:
        pair = ()
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"`{field}` must be two positive whole numbers of pixels. Received: {field}={value!r}.")
    return pair
