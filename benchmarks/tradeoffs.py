"""What choices at test time gain and cost, for one model and labelled scenes: mIoU beside time.

    keras-deeplab quickstart --to quickstart
    python benchmarks/tradeoffs.py quickstart [--scenes N] [--markdown docs/tradeoffs.md]

Draws N scenes to choose on and N others to score, which the quickstart's model has not seen. Every choice is scored on both: a
choice is worth taking if it gains on the first, and its gain is that on the second. The last two choices change no pixel's
probabilities, only how a label is decided from them:

- by rank (after Dai & Li 2023, "RankSEG"): for each class and picture the number k of most probable pixels is taken that
  maximises (sum of their probabilities) / (k + sum of the others'), which approximates the expected IoU. The label of a pixel
  is the class whose probability is the largest multiple of that of its k-th pixel.
- by weights: each class's probability times a weight, found on the scenes to choose on by trying smaller and larger ones.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from report import machine  # noqa: E402

import keras_deeplab as kd  # noqa: E402
from keras_deeplab.commands import command_line  # noqa: E402
from keras_deeplab.evaluation.evaluate import confusion, scores  # noqa: E402
from keras_deeplab.recipes.scenes import HEIGHT, WIDTH, read_scenes, write_scenes  # noqa: E402

SEEDS = (1001, 1002)  # of the scenes to choose on and to score; the quickstart's are others
STEPS = (0.7, 0.85, 0.95, 1.05, 1.15, 1.4)  # factors that a weight is tried with
TURNS = 3


def choices(model):
    """{words: (model, protocol, options of `segment`)}."""
    own = model.protocol
    sides = np.array([WIDTH, HEIGHT])
    found = {"as trained: output stride 8": (model, own, {})}
    found["output stride 16"] = (with_output_stride(model, 16), own, {})
    for factor in (0.75, 1.25, 1.5, 2.0):
        found[f"pictures {factor:g} times as large"] = (model, own, {"resize": tuple(int(s) for s in sides * factor)})
    windows = kd.Protocol("slide", crop=(64, 64), stride=(32, 32))
    found["windows of 64x64, every 32 pixels"] = (model, windows, {})
    for words, factors in {
        "mirrored too": (1.0,),
        "sizes 0.75, 1, 1.25, mirrored too": (0.75, 1.0, 1.25),
        "sizes 0.9, 1, 1.1, mirrored too": (0.9, 1.0, 1.1),
        "ms+flip: sizes 0.5 to 1.75, mirrored too": own.factors,
    }.items():
        found[words] = (model, replace(own, factors=factors), {"multi_scale_flip": True})
    return found


def with_output_stride(model, stride):
    """The same weights in a network of another output stride: its atrous rates change, no weight does."""
    other = type(model).from_config({**model.get_config(), "output_stride": stride})
    other.set_weights(model.get_weights())
    return other


def probabilities(model, protocol, pictures, options):
    """The probabilities of the classes of each picture, (N, H, W, classes), and the least seconds a picture of a few turns."""
    model.protocol, seconds = protocol, []
    kd.segment(model, pictures[0], **options)  # compiles
    for _ in range(TURNS):
        start = time.perf_counter()
        results = kd.segment(model, list(pictures), return_scores=True, **options)
        seconds.append((time.perf_counter() - start) / len(pictures))
    outputs = np.stack([outputs for _, outputs in results])
    return (outputs if options.get("multi_scale_flip") else np.asarray(keras.ops.softmax(outputs))), min(seconds)


def miou(found, truth, classes):
    """Over all pictures, in percent."""
    return scores(confusion(truth, found, classes))["mIoU"]


def by_rank(shares):
    """Label maps (N, H, W) from probabilities, by each class's best number of pixels in a picture."""
    n, height, width, classes = shares.shape
    flat = shares.reshape(n, -1, classes)
    ordered = -np.sort(-flat, axis=1)
    top = np.cumsum(ordered, axis=1)
    k = np.arange(1, height * width + 1)[:, None]
    best = np.argmax(top / (k + top[:, -1:] - top), axis=1)[:, None]
    threshold = np.take_along_axis(ordered, best, axis=1)
    return np.argmax(flat / threshold, axis=-1).reshape(n, height, width)


def fitted_weights(shares, truth):
    """Weights of the classes, one after another changed as long as the mIoU grows."""
    classes = shares.shape[-1]
    weights, best = np.ones(classes), miou(shares.argmax(-1), truth, classes)
    grew = True
    while grew:
        grew = False
        for number in range(classes):
            for step in STEPS:
                tried = weights.copy()
                tried[number] *= step
                score = miou((shares * tried).argmax(-1), truth, classes)
                if score > best:
                    weights, best, grew = tried, score, True
    return weights


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("quickstart", metavar="DIR", type=Path, help="the folder that the quickstart wrote")
    arguments.add_argument("--scenes", type=command_line.positive_integer, default=200, metavar="N")
    arguments.add_argument("--markdown", metavar="FILE", type=Path, help="put the table into this page")
    options = arguments.parse_args(argv)
    if not (options.quickstart / "model.keras").exists():
        arguments.error(f"DIR must be a folder that `keras-deeplab quickstart` wrote. Received: {options.quickstart}.")
    if options.markdown and not (options.markdown.exists() and "<!-- table -->" in options.markdown.read_text()):
        arguments.error(
            f"--markdown must be a page with the lines <!-- table --> and <!-- /table -->. Received: {options.markdown}."
        )
    model = keras.saving.load_model(options.quickstart / "model.keras", compile=False)
    pictures, truths = [], []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            write_scenes(folder, options.scenes, seed)
            images, labels = read_scenes([Path(folder, kind) for kind in ("images", "labels")])
        pictures.append(np.asarray(images))
        truths.append(np.asarray(labels).astype(np.int64))
    lines, plain = [], None
    for words, (network, protocol, of_segment) in choices(model).items():
        shares, seconds = zip(*(probabilities(network, protocol, some, of_segment) for some in pictures), strict=True)
        of_both = [miou(one.argmax(-1), truth, model.num_classes) for one, truth in zip(shares, truths, strict=True)]
        lines.append((words, *of_both, min(seconds)))
        plain = plain or (shares, min(seconds))
    shares, seconds = plain
    weights = fitted_weights(shares[0], truths[0])
    for words, decide in {"by rank": by_rank, "by weights": lambda one: (one * weights).argmax(-1)}.items():
        since = time.perf_counter()
        found = [decide(one) for one in shares]
        more = (time.perf_counter() - since) / sum(map(len, pictures))
        of_both = [miou(one, truth, model.num_classes) for one, truth in zip(found, truths, strict=True)]
        lines.append((words, *of_both, seconds + more))
    first = lines[0]
    table = ["| choice | mIoU, scenes to choose on | mIoU, others | gain on these | time |", "|---|---|---|---|---|"]
    for words, chosen, scored, taken in lines:
        table.append(f"| {words} | {chosen:.2f} | {scored:.2f} | {scored - first[2]:+.2f} | {taken / first[3]:.2f} |")
    print(*table, sep="\n")
    print("weights:", np.round(weights, 2), machine())
    if options.markdown:
        page = options.markdown.read_text()
        before, _, rest = page.partition("<!-- table -->\n")
        after = rest.partition("<!-- /table -->")[2]
        options.markdown.write_text(f"{before}<!-- table -->\n" + "\n".join(table) + f"\n<!-- /table -->{after}")


if __name__ == "__main__":
    command_line.run(main)
