"""Converts a released PyTorch file, and checks the result:

    python -m convert deeplabv3plus_r101_cityscapes --to converted

writes converted/model.keras, converted/saved_model and converted/report.json.
"""

import json
from pathlib import Path

from convert import check
from recipes import command


def main(argv):
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument(
        "--checkpoint", metavar="F.pth", help="the file, if not the released one from the cache or the network"
    )
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder for the results")
    arguments.add_argument("--reference", metavar="F.npz", help="the original's `logits` for `images`, to compare with")
    options = arguments.parse_args(argv)

    import keras
    import numpy as np

    import keras_deeplab as kd
    from keras_deeplab.zoo import fetch, table

    row = table.find(options.row)
    path = Path(options.checkpoint) if options.checkpoint else fetch.fetch(row.url, check=kd.load_checkpoint)
    model = command.load(row.name, path)
    read, used = len(kd.load_checkpoint(path)), len(model.variables)
    report = {
        "row": row.name,
        "checkpoint": path.name,
        "sha256": fetch.sha256_of(path),
        "tensors": {"read": read, "used": used, "left (auxiliary head, batch counters)": read - used},
    }
    if options.reference:
        report["largest logit difference / standard deviation"] = check.largest_difference(model, options.reference)

    to = Path(options.to)
    to.mkdir(parents=True, exist_ok=True)
    model.save(to / "model.keras")
    picture = np.asarray(check.drawn(120, 160))[None]
    if not np.array_equal(keras.saving.load_model(to / "model.keras")(picture), model(picture)):
        raise ValueError(f"{to / 'model.keras'} does not give the logits of the model it was saved from.")
    report["model.keras"] = "logits equal after loading"
    kd.export_saved_model(model, to / "saved_model")
    report["saved_model"] = dict(check.same_labels(model, to / "saved_model"))
    (to / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    command.print_table([("what", "result"), *flat(report)])


def flat(report, prefix=""):
    for key, value in report.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}: ")
        else:
            yield prefix + key, f"{value:.2e}" if isinstance(value, float) else value


if __name__ == "__main__":
    command.run(main)
