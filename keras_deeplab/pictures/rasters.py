"""A raster that GDAL reads in, rows of 8-bit RGB out; label maps and scores in, GeoTIFFs of the same place out.

rasterio, which brings GDAL, is an extra: pip install "keras_deeplab[rasterio]".
"""

import contextlib
import os
import warnings

import numpy as np

from keras_deeplab.pictures import pillow
from keras_deeplab.pictures.draw import IGNORE, padded_palette

CACHE = 256  # MiB of GDAL's cache, whose default grows with the machine
READ_VALUES = 2**24  # values of a raster that are read at once
TILE = 512  # pixels, side of the tiles of what is written
COLOURS = ("RGB", "YCbCr")  # GDAL gives both as RGB
SETTINGS = {"GDAL_CACHEMAX": CACHE, "GDAL_ERROR_ON_LIBJPEG_WARNING": True}  # a JPEG cut short is an error


def load_rasterio():
    """The module rasterio.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise ImportError(
            "Rasters are read by rasterio (GDAL), which is not installed. "
            'pip install rasterio, or pip install "keras_deeplab[rasterio]".'
        ) from error
    return rasterio


@contextlib.contextmanager
def opened(place, mode="r", **profile):
    """A dataset of rasterio with our settings for GDAL; a raster without a georeference is no reason to warn."""
    rasterio = load_rasterio()
    with rasterio.Env(**SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(place, mode, **profile) as dataset:
            yield dataset


class Raster:
    """A raster that is open for reading. `open_raster` makes one.

    Attributes:
        height, width: in pixels.
        bands: the numbers of one band (grey) or three, from 1.
        profile, tags: what places it on the ground, as arguments of `rasterio.open` and tags of the file.
    """

    def __init__(self, dataset, bands=None, stretch=None):
        self.dataset, self.stretch = dataset, stretch
        self.height, self.width = dataset.shape
        colours = [colour.name for colour in dataset.colorinterp]
        self.bands = _chosen(dataset, colours, bands)
        used = [colours[band - 1] for band in self.bands]
        self.table = None
        if used == ["palette"]:
            self.table = np.zeros((256, 3), np.uint8)
            for value, colour in dataset.colormap(self.bands[0]).items():
                self.table[value] = colour[:3]
        self._check(used)
        self.profile, self.tags = _georeference(dataset), _tags_of(dataset)
        self._masked = self._masked_bands("alpha" in used)

    def read(self, top, rows):
        """Rows of pixels from `top` on.

        Returns:
            (rows, width, 3) uint8, and (rows, width) bool: which pixels have data. None: all.
        """
        step = max(READ_VALUES // (self.width * len(self.bands)), 1)
        parts = [self._read(y, min(step, top + rows - y)) for y in range(top, top + rows, step)]
        pixels, valid = zip(*parts, strict=True)
        if all(part is None for part in valid):
            return np.concatenate(pixels), None
        valid = [np.ones(p.shape[:2], bool) if v is None else v for p, v in parts]
        return np.concatenate(pixels), np.concatenate(valid)

    def _read(self, top, rows):
        rasterio = load_rasterio()
        window = rasterio.windows.Window(0, top, self.width, rows)
        try:
            with rasterio.Env(**SETTINGS):
                values = self.dataset.read(self.bands, window=window)  # (bands, rows, width)
                masks = self.dataset.read_masks(self._masked, window=window) if self._masked else None
        except MemoryError:
            raise
        except Exception as error:  # rasterio's are of many types
            raise ValueError(
                f"GDAL cannot read the rows {top} to {top + rows}: {_cause(error)}. The raster is damaged: copy it again."
            ) from error
        valid = None if masks is None else masks.any(axis=0)
        if np.issubdtype(values.dtype, np.floating):
            finite = np.isfinite(values)
            if not finite.all():
                valid = finite.all(axis=0) if valid is None else valid & finite.all(axis=0)
                values[~finite] = 0
        if self.stretch is not None:
            values = stretched(values, *self.stretch)
        if self.table is not None:
            return self.table[values[0]], valid
        return np.repeat(values, 3 // len(values), axis=0).transpose(1, 2, 0).copy(), valid

    def _check(self, used):
        """Refuses pixels that are not 8-bit RGB, grey or palette."""
        tags = self.dataset.tags(ns="IMAGE_STRUCTURE")
        kinds = {self.dataset.dtypes[band - 1] for band in self.bands}
        space = tags.get("SOURCE_COLOR_SPACE", "RGB")
        if any("complex" in kind for kind in kinds):
            raise ValueError("A picture has real numbers. Received: complex ones. Convert the raster first.")
        if space not in COLOURS:
            raise ValueError(f"The raster is {space}, whose colours depend on a profile. Convert it to RGB first.")
        if _turn(self.dataset) != 1:
            raise ValueError(
                "The raster is to be turned by its orientation tag, which GDAL does not do. Save it turned, without the tag."
            )
        if self.table is not None and self.stretch is not None:
            raise ValueError("The raster has a palette, whose values are no brightness. Leave `stretch` out.")
        bits = {int(self.dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8)) for band in self.bands}
        is_byte = kinds == {"uint8"} and (bits == {8} or self.table is not None)
        if self.stretch is None and not is_byte:
            kind = f"uint8 of {min(bits)} bits" if kinds == {"uint8"} else " and ".join(sorted(kinds))
            raise ValueError(
                f"The bands must be 8-bit, 0..255. Received: {kind}. Say by `stretch` which values become 0 and 255, such as "
                "`stretch=0 10000`."
            )

    def _masked_bands(self, alpha_is_used):
        """The bands whose masks say where there is data. Empty: everywhere."""
        rasterio = load_rasterio()
        masks, flags = rasterio.enums.MaskFlags, [self.dataset.mask_flag_enums[band - 1] for band in self.bands]
        if alpha_is_used or all(masks.all_valid in flag for flag in flags):
            return []
        return self.bands[:1] if all(masks.per_dataset in flag for flag in flags) else self.bands


@contextlib.contextmanager
def open_raster(place, bands=None, stretch=None):
    """Opens a raster.

    Args:
        place: its path.
        bands: one band number, from 1, or three. None: bands 1, 2 and 3, or the only band as grey.
        stretch: (low, high), the values that become 0 and 255. None: the values are 0..255 already.

    Yields:
        `Raster`.

    Raises:
        ValueError: if GDAL does not know the file, or if its pixels cannot be taken as they are. The message says what helps.
        ImportError: if rasterio is not installed.
    """
    load_rasterio()
    with contextlib.ExitStack() as closing:
        try:
            dataset = closing.enter_context(opened(place))
        except Exception as error:  # rasterio's are of many types
            raise ValueError(f"There must be a raster that GDAL reads. Received: {_cause(error)}.") from error
        yield Raster(dataset, bands, stretch)


def stretched(values, low, high):
    """round((value - low) * 255 / (high - low)), cut to 0..255, as uint8; halves are rounded to even."""
    return np.clip(np.rint((values.astype(np.float64) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def check_stretch(stretch):
    """(low, high) as floats, or None. ValueError if the first is not below the second."""
    if stretch is None:
        return None
    try:
        low, high = map(float, stretch)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not (low < high and np.isfinite(high - low)):
        raise ValueError(f"`stretch` is (LOW, HIGH), two numbers, the lower one first. Received: {stretch!r}.")
    return low, high


def check_bands(bands):
    """The numbers of one band or of three as a list, or None. ValueError for anything else."""
    if bands is None:
        return None
    numbers = [bands] if isinstance(bands, int) else list(bands)
    if len(numbers) not in (1, 3) or not all(isinstance(n, (int, np.integer)) and n > 0 for n in numbers):
        raise ValueError(
            f"`bands` names one band (grey) or three (red, green, blue), counted from 1. Received: {bands!r}."
        )
    return [int(number) for number in numbers]


def _chosen(dataset, colours, bands):
    """The bands to read."""
    if bands is None:
        grey = dataset.count == 1 or colours[1:] == ["alpha"]
        if dataset.count == 2 and not grey:
            raise ValueError(
                "Of a raster with 2 bands the second must be alpha. Received: other ones. Name one by `bands`: `bands=1`."
            )
        return [1] if grey else [1, 2, 3]
    if missing := [band for band in bands if band > dataset.count]:
        raise ValueError(
            f"The raster must have the bands that `bands` names. Received: {' '.join(map(str, bands))}, of a raster with "
            f"{dataset.count} {'band' if dataset.count == 1 else 'bands'}, so that {missing[0]} is missing."
        )
    return bands


def _turn(dataset):
    """The orientation 1..8 that the file asks for. GDAL tells that of a JPEG alone."""
    if (told := dataset.tags().get("EXIF_Orientation")) is not None:
        return int(told) if told.isdecimal() else 1
    if dataset.driver not in ("GTiff", "PNG", "WEBP"):
        return 1
    try:
        with pillow.open_unlimited(dataset.name) as image:
            return image.getexif().get(pillow.ORIENTATION, 1)
    except Exception:  # Pillow's readers raise errors of every type; GDAL reads more kinds
        return 1


def _georeference(dataset):
    """Where a raster lies on the ground, as arguments of `rasterio.open`; empty if it does not say."""
    points, crs_of_points = dataset.gcps
    placed = {"gcps": points, "crs": crs_of_points} if points else {}
    if not points and (dataset.crs is not None or not dataset.transform.is_identity):
        placed = {"crs": dataset.crs, "transform": dataset.transform}
    return {**placed, **({"rpcs": dataset.rpcs} if dataset.rpcs else {})}


def _tags_of(dataset):
    """What else says where the values lie: at the pixels' centres or over their areas."""
    kind = dataset.tags().get("AREA_OR_POINT")
    return {} if kind is None else {"AREA_OR_POINT": kind}


def _cause(error):
    """An error of rasterio in one line; GDAL's own message says more than rasterio's."""
    return " ".join(str(error.__cause__ or error).split()).rstrip(".") or type(error).__name__


def write_labels(path, rows_of, shape, placed, classes, palette, tags):
    """Writes a label map as a tiled GeoTIFF, compressed, with colours, class names and overviews (the most frequent class).

    Args:
        path: of the file.
        rows_of: a function (top, rows) -> (rows, width) uint8.
        shape: height, width.
        placed: `Raster.profile`.
        classes: a name for each class.
        palette: (R, G, B) for each class.
        tags: further {name: text}.

    Returns:
        (256,) int64: how many pixels have each label.

    Raises:
        OSError: if the file could not be written whole, such as on a full disk.
    """
    rasterio, counts = load_rasterio(), np.zeros(256, np.int64)
    profile = {"dtype": "uint8", "count": 1, "nodata": IGNORE, "photometric": "palette", "compress": "deflate"}
    names = {f"class_{i}": name.strip() for i, name in enumerate(classes)}
    colours = {i: (*colour, 0 if i == IGNORE else 255) for i, colour in enumerate(padded_palette(palette))}
    bands_of = [(top, min(TILE, shape[0] - top)) for top in range(0, shape[0], TILE)]
    with _reported(path):
        with opened(path, "w", **_form(shape), **profile, **placed) as dataset:
            dataset.write_colormap(1, colours)
            dataset.update_tags(**tags, **names)
            for top, height in bands_of:
                rows = rows_of(top, height)
                counts += np.bincount(rows.ravel(), minlength=256)
                dataset.write(rows, 1, window=rasterio.windows.Window(0, top, shape[1], height))
        with opened(path, "r+") as dataset:
            dataset.build_overviews(_levels(shape), rasterio.enums.Resampling.mode)
        with opened(path) as dataset:
            for top, height in bands_of:
                window = rasterio.windows.Window(0, top, shape[1], height)
                _require_equal(dataset.read(1, window=window), rows_of(top, height))
    return counts


def write_scores(path, block_of, shape, placed, classes, tags):
    """Writes scores as a tiled GeoTIFF of 16-bit floating-point numbers, one band a class, NaN where there is no data.

    Args:
        path, shape, placed, classes, tags: as for `write_labels`.
        block_of: a function (top, left, rows, columns) -> (rows, columns, classes) float16.

    Raises:
        OSError: if the file could not be written whole.
    """
    profile = {"dtype": "float32", "nbits": 16, "count": len(classes), "nodata": float("nan"), "compress": "deflate"}
    profile.update(predictor=3, interleave="band")
    windows = [
        (top, left, min(TILE, shape[0] - top), min(TILE, shape[1] - left))
        for top in range(0, shape[0], TILE)
        for left in range(0, shape[1], TILE)
    ]
    window_of = load_rasterio().windows.Window
    with _reported(path):
        with opened(path, "w", **_form(shape), **profile, **placed) as dataset:
            dataset.update_tags(**tags)
            dataset.descriptions = tuple(name.strip() for name in classes)
            for top, left, rows, columns in windows:
                block = block_of(top, left, rows, columns).transpose(2, 0, 1).astype(np.float32)
                dataset.write(block, window=window_of(left, top, columns, rows))
        with opened(path) as dataset:
            for top, left, rows, columns in windows:
                found = dataset.read(window=window_of(left, top, columns, rows)).transpose(1, 2, 0)
                _require_equal(found.astype(np.float16), block_of(top, left, rows, columns))


def _form(shape):
    """The layout of a GeoTIFF of a size (height, width), as arguments of `rasterio.open`."""
    form = {"driver": "GTiff", "height": shape[0], "width": shape[1], "tiled": True, "bigtiff": "if_safer"}
    return {**form, "blockxsize": TILE, "blockysize": TILE, "num_threads": "all_cpus"}


@contextlib.contextmanager
def _reported(path):
    """Raises `OSError` for whatever fails while a file is written and read again: GDAL passes over some writes that fail."""
    try:
        yield
    except Exception as error:  # rasterio's are of many types
        raise OSError(
            f"There must be space for the results in {os.path.dirname(path)}. Received: GDAL could not write a file whole "
            f"({_cause(error)}). Free some, and run the same again: what is computed is kept."
        ) from error


def _require_equal(found, expected):
    if not np.array_equal(found, expected, equal_nan=found.dtype != np.uint8):
        raise ValueError("it holds other values than were written")


def _levels(shape):
    """The overviews: halves, quarters and so on, until one fits into a tile."""
    levels = [2]
    while max(shape) / levels[-1] > TILE:
        levels.append(2 * levels[-1])
    return levels
