"""How a model is to be tested: on the whole picture or in sliding windows, and at which size."""

from dataclasses import asdict, dataclass
from operator import index

MODES = ("whole", "slide")


@dataclass(frozen=True)
class Protocol:
    """The test protocol of a model.

    Args:
        mode: `"whole"` (one pass over the picture) or `"slide"` (overlapping windows, averaged).
        crop: height, width of a window in pixels; `"slide"` only.
        stride: height, width in pixels from one window to the next, at most `crop`; `"slide"` only.
        resize: long, short side in pixels, in any order: the box that the picture is resized to fit, keeping
            its ratio. `None` leaves the picture's size.

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
            raise ValueError(f"`mode` is 'whole' or 'slide'. Received: mode={self.mode!r}")
        for field in ("crop", "stride", "resize"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, _pixel_pair(field, value))
        if self.resize:
            object.__setattr__(self, "resize", (max(self.resize), min(self.resize)))
        if self.mode == "whole" and (self.crop or self.stride):
            raise ValueError(
                f"Mode 'whole' has no windows: leave `crop` and `stride` out, or use mode='slide'. "
                f"Received: crop={self.crop}, stride={self.stride}"
            )
        if self.mode == "slide":
            self._check_windows()

    def _check_windows(self):
        if not self.crop or not self.stride:
            raise ValueError(
                f"Mode 'slide' needs `crop` and `stride`, each (height, width) in pixels. "
                f"Received: crop={self.crop}, stride={self.stride}"
            )
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise ValueError(
                f"`stride` is at most `crop`, or pixels between two windows would be left out. "
                f"Received: crop={self.crop}, stride={self.stride}"
            )

    def to_dict(self):
        """The protocol as plain JSON values; `from_dict` reads it back."""
        fields = asdict(self).items()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields}

    @classmethod
    def from_dict(cls, config):
        """The protocol that `to_dict` wrote. Raises `ValueError` for anything else."""
        fields = cls.__dataclass_fields__
        if not isinstance(config, dict) or "mode" not in config or not set(config) <= set(fields):
            raise ValueError(
                f"A protocol is a dict with 'mode' and, where they apply, 'crop', 'stride' and 'resize'. "
                f"Received: {config!r}"
            )
        return cls(**config)


def _pixel_pair(field, value):
    """`[769, 769]` -> `(769, 769)`; two positive whole numbers or a `ValueError`."""
    try:
        pair = tuple(index(side) for side in value)
    except TypeError:
        pair = ()
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"`{field}` is two positive whole numbers of pixels. Received: {field}={value!r}")
    return pair
