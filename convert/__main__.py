"""Converts a released file to a Keras file and a SavedModel, and checks both.

    keras-deeplab convert deeplabv3plus_r101_cityscapes --to converted

writes converted/model.keras, converted/saved_model and converted/report.json.
"""

import json
from pathlib import Path

from keras_deeplab import files
from keras_deeplab.catalog import rows
from keras_deeplab.commands import command_line


def main(argv):
    arguments = command_line.parser("convert", __doc__.splitlines()[0])
    arguments.add_argument("--weights", metavar="FILE", help="another file in place of the released one")
    arguments.add_argument("--checkpoint", dest="weights", action=command_line.OldName)
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder for the results")
    arguments.add_argument(
        "--reference", metavar="FILE", help=".npz of `images` and the original's `logits`, to compare with"
    )
    options = arguments.parse_args(argv)

    from keras_deeplab.serving import verify
    from keras_deeplab.zoo import fetch
    from keras_deeplab.zoo.presets import FORMATS

    row = rows.find(options.row)
    read = FORMATS[row.source].read
    path = Path(options.weights) if options.weights else fetch.fetch(row.url, check=read)
    model = command_line.load(row.name, path)
    tensors_read, tensors_used = len(read(path).tensors), len(model.variables)
    report = {
        "row": row.name,
        "checkpoint": path.name,
        "sha256": fetch.sha256_of(path) if path.is_file() else None,  # a TensorFlow checkpoint has several files
        "tensors": {
            "read": tensors_read,
            "used": tensors_used,
            "left (auxiliary head, batch counters)": tensors_read - tensors_used,
        },
    }
    if options.reference:
        report["largest logit difference / standard deviation"] = verify.largest_difference(model, options.reference)

    to = Path(options.to)
    with files.locked(to / "lock", f"is converting into {to}"):
        write_and_compare(model, to, report)
    command_line.print_table([("what", "result"), *flattened(report)])


def write_and_compare(model, to, report):
    """Writes model.keras, saved_model and report.json into the folder `to`, each in its place only when it is right.

    Args:
        report: a dict, to which the results are added.
    """
    import keras
    import numpy as np

    from keras_deeplab.serving import verify
    from keras_deeplab.serving.export import saved_model_in_place_of

    for name in ("model.keras", "report.json"):
        files.remove_temporary_files(to / name)
    with files.written_whole(to / "model.keras") as new:
        model.save(new)
        picture = np.asarray(verify.synthetic_picture(120, 160))[None]
        if not np.array_equal(keras.saving.load_model(new)(picture), model(picture)):
            raise ValueError(
                f"{to / 'model.keras'} must give the logits of the model that it was saved from. Received: other logits."
            )
    report["model.keras"] = "logits equal after loading"
    with saved_model_in_place_of(model, to / "saved_model") as (new, _):
        report["saved_model"] = dict(verify.require_same_labels(model, new))
    with files.written_whole(to / "report.json") as new:
        new.write_text(json.dumps(report, indent=1) + "\n")


def flattened(report, prefix=""):
    """Yields (key, text) of every value; the keys of nested dicts are joined by ": "."""
    for key, value in report.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}: ")
        else:
            yield prefix + key, f"{value:.2e}" if isinstance(value, float) else value


if __name__ == "__main__":
    command_line.run(main)
