"""A .mat file (MATLAB) in; a label map (H, W) uint16 out, or an error that names the file."""

import io

import numpy as np


def array(source, *path):
    """A label map in a .mat file.

    Args:
        source: `Source` of the file.
        *path: name of the variable and of the fields below it, for example `"GTcls", "Segmentation"`.

    Returns:
        (H, W) uint16.

    Raises:
        ValueError: if the file is damaged, or has no label map there.
        ImportError: if scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError('Reading .mat files needs scipy: pip install "keras_deeplab[datasets]"') from error
    try:
        values = loadmat(io.BytesIO(source.read()))
        for name in path:
            values = values[name] if isinstance(values, dict) else values[name][0, 0]
        values = np.asarray(values)
    except Exception as error:  # scipy raises errors of many types for a damaged file
        raise ValueError(f"{source} is not a .mat file with {'.'.join(path)}: {error}.") from error
    if values.ndim != 2 or values.dtype.kind not in "uif" or not np.array_equal(values, values.astype(np.uint16)):
        raise ValueError(
            f"{'.'.join(path)} of {source} must be a label map: a 2-D array of whole numbers 0..65535. "
            f"Received: {values.dtype} of shape {values.shape}."
        )
    return values.astype(np.uint16)
