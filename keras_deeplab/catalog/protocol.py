"""Test settings in, a checked protocol out: whole pictures or sliding windows, and the size of the pictures."""

from dataclasses import asdict, dataclass, replace
from operator import index

MODES = ("whole", "slide")
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # sizes of multi-scale testing; each is run plain and mirrored
UNLIMITED = 2**24  # long side in pixels of a box that limits the short side alone: no picture becomes as long


@dataclass(frozen=True)
class Protocol:
    """The test protocol of a model.

    Args:
        mode: `"whole"` (one pass over the picture) or `"slide"` (overlapping windows, whose logits are averaged).
        crop: height, width of a window in pixels. Only for `"slide"`.
        stride: height, width in pixels from one window to the next, at most `crop`. Only for `"slide"`.
        resize: long and short side in pixels, in any order. The picture is resized to fit into this box and keeps its aspect
            ratio. Default `None`: the picture keeps its size. A long side of `UNLIMITED` stands for no limit.
        antialias: whether pictures are resized as torchvision does, by Pillow's bilinear filter, whose support grows where
            pictures shrink, to sides that are rounded down. Default False: as OpenCV and mmcv do.
        pad: height, width in pixels that a smaller picture is padded to, at the bottom and the right, with the mean pixel of
            the network (the middle of 0..255). A larger picture is not padded. Default `None`: no padding. Only for
            `"whole"`, and only where features are resized with align_corners, as DeepLab's authors test.
        step: with `pad` and `resize`: the sides of a resized picture are rounded up to a multiple of it plus one. Default
            `None`: sides are rounded to whole pixels.
        factors: sizes of multi-scale testing, relative to the box or the padded picture. Default 0.5, 0.75, ... 1.75.

    Raises:
        ValueError: if the fields contradict each other.

    Example:

    >>> Protocol("slide", crop=(769, 769), stride=(513, 513), resize=(2049, 1025))
    """

    mode: str
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    pad: tuple[int, int] | None = None
    step: int | None = None
    factors: tuple[float, ...] = FACTORS
    antialias: bool = False

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be 'whole' or 'slide'. Received: mode={self.mode!r}.")
        for field in ("crop", "stride", "resize", "pad"):
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
        self._check_padding()
        object.__setattr__(self, "antialias", bool(self.antialias))
        object.__setattr__(self, "factors", _factors(self.factors))

    @property
    def box(self):
        """(height, width) of the box, wider than high; `None` if there is none that limits both sides."""
        return self.resize[::-1] if self.resize and self.resize[0] < UNLIMITED else None

    def _check_padding(self):
        if self.mode == "slide" and self.pad:
            raise ValueError(
                f"`pad` goes with mode 'whole': windows need no padding. Received: mode='slide', pad={self.pad}."
            )
        if self.pad and self.antialias:
            raise ValueError(
                f"`antialias` and `pad` are of different test protocols. Received: antialias=True, pad={self.pad}. "
                "Leave one of them out."
            )
        if self.step is None:
            return
        if not (self.pad and self.resize) or isinstance(self.step, bool) or not _is_positive_int(self.step):
            raise ValueError(
                "`step` must be a positive whole number of pixels, and goes with `pad` and `resize`. "
                f"Received: step={self.step!r}, pad={self.pad}, resize={self.resize}."
            )
        object.__setattr__(self, "step", index(self.step))

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

    def resized(self, resize):
        """The protocol with another box, or with None: pictures keep their size."""
        return replace(self, resize=resize, step=self.step if resize else None)

    def to_dict(self):
        """The protocol as a dict of JSON values, which `from_dict` reads."""
        fields = asdict(self).items()
        # Older versions read a protocol without these.
        defaults = {"pad": None, "step": None, "factors": FACTORS, "antialias": False}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in fields
            if key not in defaults or value != defaults[key]
        }

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


def box_text(box):
    """A box in words: "into 2048x1024", or "to a short side of 520"."""
    return f"to a short side of {min(box)}" if max(box) >= UNLIMITED else f"into {max(box)}x{min(box)}"


def _pixel_pair(field, value):
    """`[769, 769]` -> `(769, 769)`. Raises `ValueError` unless it has two positive whole numbers."""
    try:
        pair = tuple(index(side) for side in value)
    except TypeError:
        pair = ()
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"`{field}` must be two positive whole numbers of pixels. Received: {field}={value!r}.")
    return pair


def _is_positive_int(value):
    try:
        return index(value) > 0
    except TypeError:
        return False


def _factors(values):
    """`[0.5, 1]` -> `(0.5, 1.0)`. Raises `ValueError` unless it has positive numbers."""
    try:
        factors = tuple(map(float, values))
    except (TypeError, ValueError):
        factors = ()
    if not factors or not all(0 < factor < float("inf") for factor in factors):
        raise ValueError(f"`factors` must be positive numbers, at least one. Received: factors={values!r}.")
    return factors
