"""A .mat file in, an array of whole numbers out; or one clear line that names the file."""

import io

import numpy as np


def array(source, *path):
    """The array at a path of names, for example `"GTcls", "Segmentation"`, (H, W) uint16."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError('Reading .mat files takes scipy: pip install "keras_deeplab[datasets]"') from error
    try:
        found = loadmat(io.BytesIO(source.read()))
        for name in path:
            found = found[name] if isinstance(found, dict) else found[name][0, 0]
        found = np.asarray(found)
    except Exception as error:  # scipy raises whatever it stumbles over
        raise ValueError(f"{source} is no .mat file with {'.'.join(path)}: {error}.") from error
    if found.ndim != 2 or found.dtype.kind not in "uif" or not np.array_equal(found, found.astype(np.uint16)):
        raise ValueError(f"{source} holds no label map in {'.'.join(path)}: {found.dtype} of shape {found.shape}.")
    return found.astype(np.uint16)
