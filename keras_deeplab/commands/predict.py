"""Writes label maps of pictures, made by a released model.

    keras-deeplab predict deeplabv3plus_r101_cityscapes street.jpg --to labels

writes labels/street.png, an 8-bit palette PNG whose values are the class ids, and labels/street_overlay.png, the picture with
its classes in colour.
"""

from pathlib import Path

import numpy as np

from keras_deeplab.commands import command_line


def main(argv):
    arguments = command_line.parser("predict", __doc__.splitlines()[0])
    arguments.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder for the results")
    command_line.add_weights(arguments)
    arguments.add_argument(
        "--multi-scale-flip", action="store_true", help="average over six sizes, each plain and mirrored"
    )
    arguments.add_argument(
        "--scores", action="store_true", help="also write STEM.npz: labels, scores, and input, the resized picture"
    )
    options = arguments.parse_args(argv)
    paths = unique_stems(options.images)

    import keras

    from keras_deeplab.inference.segment import resized_to_box, segment
    from keras_deeplab.pictures.draw import overlay, palette_image
    from keras_deeplab.pictures.read import read_image

    model = command_line.load(options.row, options.weights, ema=options.ema)
    to = Path(options.to)
    to.mkdir(parents=True, exist_ok=True)
    bar = keras.utils.Progbar(len(paths), unit_name="picture")
    rows = [("picture", "size", "most frequent classes")]
    for i, path in enumerate(paths):
        picture = read_image(path)
        result = segment(model, picture, multi_scale_flip=options.multi_scale_flip, return_scores=options.scores)
        labels, scores = result if options.scores else (result, None)
        palette_image(labels, model.palette).save(to / f"{path.stem}.png")
        overlay(picture, labels, model.classes, model.palette).save(to / f"{path.stem}_overlay.png")
        if options.scores:
            np.savez(
                to / f"{path.stem}.npz", labels=labels, scores=scores, input=resized_to_box(model.protocol, picture)
            )
        rows.append((path.name, f"{labels.shape[1]}x{labels.shape[0]}", frequent_classes(labels, model.classes)))
        bar.update(i + 1)
    command_line.print_table(rows)


def unique_stems(images):
    """The images' paths.

    Raises:
        FileNotFoundError: if a picture does not exist.
        ValueError: if two results would be written to the same file.
    """
    paths = [Path(image) for image in images]
    path_of_result = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"There is no picture {str(path)!r}.")
        for name in (path.stem, f"{path.stem}_overlay"):
            if name in path_of_result:
                raise ValueError(
                    f"{path} and {path_of_result[name]} would both be written to {name}.png. Give them other names, or "
                    "predict them into two folders."
                )
            path_of_result[name] = path
    return paths


def frequent_classes(labels, classes, count=3):
    """The names of the `count` most frequent classes with their shares of the pixels, as text."""
    shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    top = np.argsort(-shares, kind="stable")[:count]
    return ", ".join(f"{classes[i].strip()} {100 * shares[i]:.1f}%" for i in top if shares[i])


if __name__ == "__main__":
    command_line.run(main)
