"""A folder as cache in, narrow released files in it out, so that a page's examples find their models without a download."""

from support.narrow import build, tensors
from support.torch_files import released

from keras_deeplab.catalog import rows


def release(folder, *names, class_name=None):
    """Puts narrow released files of rows into the cache, with their auxiliary heads.

    Args:
        folder: the cache.
        names: of rows, full or short.
        class_name: of the rows, for short names without it. Default None.

    Returns:
        The path of the last file.
    """
    for name in names:
        row = rows.find(name, class_name) if class_name else rows.find(name)
        (folder / row.file).write_bytes(released(tensors(build(row.name, auxiliary_head=True))))
    return folder / row.file
