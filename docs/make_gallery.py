"""Makes the gallery: photographs as released models label them, in docs/gallery/ and docs/gallery.md.

    python docs/make_gallery.py [--rows ROW ...] [--photos FILE ...]

needs the released files: it downloads those that are not in the cache, 0.7 GB for the rows below. Without --photos it takes
photographs of scikit-image and scikit-learn (`pip install "keras_deeplab[docs]"`), whose terms allow it.
"""

import argparse
import datetime
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from make_picture import panels
from PIL import Image

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.commands import command_line

HERE = Path(__file__).resolve().parent
ROWS = ("deeplabv3plus_s101_ade20k", "deeplabv3plus_xception65_voc12aug")
LONGEST_SIDE = 640  # pixels, of a photograph
HEAD = """# Gallery

Photographs beside the label maps that released models give by their own test protocol. `python docs/make_gallery.py` made this
page on {date}, with keras_deeplab {version}, Keras {keras} and TensorFlow {tensorflow}."""
TERMS = {
    "china": "danielbuechele, CC BY 2.0, from scikit-learn",
    "astronaut": "NASA, public domain, from scikit-image",
    "chelsea": "Stefan van der Walt, CC0, from scikit-image",
    "coffee": "Rachel Michetti, CC0, from scikit-image",
}


def photographs():
    """{name: (H, W, 3) uint8} of the photographs in TERMS."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = {"china": load_sample_image("china.jpg")}
    return photos | {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee")}


def own(files):
    """{stem: (H, W, 3) uint8} of a user's files."""
    photos = {Path(file).stem: kd.read_image(file) for file in files}
    if len(photos) < len(files):
        raise ValueError(
            f"Photographs must have names of their own: pictures are named after them. Received: {', '.join(files)}."
        )
    return photos


def smaller(photo):
    """A photograph of LONGEST_SIDE pixels at most."""
    image = Image.fromarray(photo)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def make(row_names, photos, terms, to):
    """Writes to/gallery.md and to/gallery/PHOTO_ROW.jpg.

    Args:
        row_names: of the released models.
        photos: {name: (H, W, 3) uint8}.
        terms: {name: the photographer and the terms of use}, for those that are not the user's own.
        to: folder.
    """
    released = [rows.find(name) for name in row_names]
    (to / "gallery").mkdir(parents=True, exist_ok=True)
    sections = [
        HEAD.format(
            date=datetime.date.today(), version=kd.__version__, keras=keras.__version__, tensorflow=tf.__version__
        )
    ]
    for row in released:
        model = kd.from_preset(row.name)
        sections.append(f"## {row.name}\n\n`{row.file}`, {row.publisher}. {row.checkpoint_licence}")
        for name, photo in photos.items():
            found = kd.segment(model, photo)
            shown = f"gallery/{name}_{row.name}.jpg"
            panels(photo, found, model.classes, model.palette).save(to / shown, quality=90, subsampling=0)
            sections.append(f"![{name}, beside its label map]({shown})\n\n*Photograph: {terms.get(name, name)}.*")
    (to / "gallery.md").write_text("\n\n".join(sections) + "\n")


def main(argv=None):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", nargs="+", default=ROWS, metavar="ROW", help="released models")
    arguments.add_argument("--photos", nargs="+", metavar="FILE", help="your own photographs")
    arguments.add_argument("--to", type=Path, default=HERE, metavar="DIR", help="folder for the page")
    options = arguments.parse_args(argv)
    photos = own(options.photos) if options.photos else photographs()
    terms = {} if options.photos else TERMS
    make(options.rows, {name: smaller(photo) for name, photo in photos.items()}, terms, options.to)


if __name__ == "__main__":
    command_line.run(main)
