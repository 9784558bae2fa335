"""What choices at test time gain and cost, for one model and labelled pictures: mIoU beside time.

    keras-deeplab quickstart --to quickstart
    python benchmarks/tradeoffs.py quickstart --markdown docs/tradeoffs.md
    python benchmarks/tradeoffs.py run/model.keras --images val test --labels valannot testannot [--label-map OLD=NEW ...]

Takes pictures to choose on and others to score, which the model has not seen: for the quickstart's model it draws them. Every
choice is scored on both: a choice is worth taking if it gains on the first, and its gain is that on the second. The last two
choices change no pixel's probabilities, only how a label is decided from them:

- by rank (after Dai & Li 2023, "RankSEG"): for each class and picture the number k of most probable pixels is taken that
  maximises (sum of their probabilities) / (k + sum of the others'), which approximates the expected IoU. The label of a pixel
  is the class whose probability is the largest multiple of that of its k-th pixel.
- by weights: each class's probability times a weight, found on the pictures to choose on by trying smaller and larger ones.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_deeplab as kd  # noqa: E402  # before Keras: TensorFlow reads what this sets while it is imported

# isort: split
import keras  # noqa: E402
import numpy as np  # noqa: E402
from report import machine  # noqa: E402

from keras_deeplab.commands import command_line  # noqa: E402
from keras_deeplab.data.pairs import find_pairs  # noqa: E402
from keras_deeplab.evaluation.evaluate import confusion, read_pair, scores  # noqa: E402
from keras_deeplab.recipes.scenes import read_scenes, write_scenes  # noqa: E402

SEEDS = (1001, 1002)  # of the scenes to choose on and to score; the quickstart's are others
STEPS = (0.7, 0.85, 0.95, 1.05, 1.15, 1.4)  # factors that a weight is tried with
TURNS, TIMED = 3, 20  # times that the first pictures are segmented, and how many of them
EVERY = 3  # weights are found on every third pixel of a row and of a column


def choices(model, height, width):
    """{words: (model, protocol, options of `segment`)}, for pictures of one size."""
    own, stride = model.protocol, model.get_config()["output_stride"]
    found = {f"as trained: output stride {stride}": (model, own, {})}
    for other in {8, 16} - {stride}:
        found[f"output stride {other}"] = (with_output_stride(model, other), own, {})
    for factor in (0.75, 1.25, 1.5, 2.0):
        box = tuple(int(side * factor) for side in sorted((height, width), reverse=True))
        found[f"pictures {factor:g} times as large"] = (model, own, {"resize": box})
    crop = (height * 2 // 3, width * 2 // 3)
    windows = kd.Protocol("slide", crop=crop, stride=(crop[0] // 2, crop[1] // 2))
    found["windows of two thirds of each side, half of them apart"] = (model, windows, {})
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
    """The probabilities of the classes of each picture, a list of (H, W, classes)."""
    model.protocol = protocol
    outputs = (outputs for _, outputs in kd.segment(model, pictures, return_scores=True, **options))
    return [
        one if options.get("multi_scale_flip") else keras.ops.convert_to_numpy(keras.ops.softmax(one))
        for one in outputs
    ]


def seconds_of(model, protocol, pictures, options):
    """The least seconds a picture of a few turns, each of the first pictures."""
    model.protocol, seconds, pictures = protocol, [], pictures[:TIMED]
    kd.segment(model, pictures[0], **options)  # compiles
    for _ in range(TURNS):
        start = time.perf_counter()
        kd.segment(model, pictures, **options)
        seconds.append((time.perf_counter() - start) / len(pictures))
    return min(seconds)


def miou(found, truth, classes):
    """Over all pictures, in percent."""
    counts = sum(confusion(one, labels, classes) for labels, one in zip(found, truth, strict=True))
    return scores(counts)["mIoU"]


def best_labels(shares, weights=1.0):
    """Label maps (H, W) from probabilities (H, W, classes), by the largest product with a weight."""
    return [(one * weights).argmax(-1) for one in shares]


def by_rank(shares):
    """Label maps (H, W) from probabilities (H, W, classes), by each class's best number of pixels in a picture."""
    return [by_rank_of_one(one) for one in shares]


def by_rank_of_one(shares):
    flat = shares.reshape(-1, shares.shape[-1]).astype(float)
    ordered = -np.sort(-flat, axis=0)
    top = np.cumsum(ordered, axis=0)
    k = np.arange(1, len(flat) + 1)[:, None]
    best = np.argmax(top / (k + top[-1] - top), axis=0)
    threshold = ordered[best, np.arange(flat.shape[1])]
    return np.argmax(flat / threshold, axis=1).reshape(shares.shape[:2])


def fitted_weights(shares, truth):
    """Weights of the classes, one after another changed as long as the mIoU grows."""
    classes = shares[0].shape[-1]
    weights, best = np.ones(classes, "float32"), miou(best_labels(shares), truth, classes)
    grew = True
    while grew:
        grew = False
        for number in range(classes):
            for step in STEPS:
                tried = weights.copy()
                tried[number] *= step
                score = miou(best_labels(shares, tried), truth, classes)
                if score > best:
                    weights, best, grew = tried, score, True
    return weights


def drawn_scenes(count, seed):
    """Pictures and label maps, uint8, that the quickstart has not seen."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(folder, count, seed)
        images, labels = read_scenes([Path(folder, kind) for kind in ("images", "labels")])
    return list(np.asarray(images)), list(np.asarray(labels).astype(np.uint8))


def labelled_pictures(model, images, labels, rule):
    """Pictures and label maps, uint8, of two folders."""
    pairs = find_pairs(images, labels)
    _, pictures, truth = zip(*(read_pair(pairs, number, model, **rule) for number in range(len(pairs))), strict=True)
    if len(sizes := {one.shape for one in pictures}) > 1:
        raise ValueError(f"All pictures must have one size. Received: {len(sizes)} sizes in {images}.")
    return list(pictures), list(truth)


def main(argv):
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("model", metavar="DIR|FILE", type=Path, help="a folder of the quickstart, or a .keras file")
    arguments.add_argument("--scenes", type=command_line.positive_integer, default=200, metavar="N")
    arguments.add_argument(
        "--images", nargs=2, metavar=("CHOOSE", "SCORE"), help="folders of pictures, for a .keras file"
    )
    arguments.add_argument("--labels", nargs=2, metavar=("CHOOSE", "SCORE"), help="folders of their label maps")
    command_line.add_label_rule(arguments)
    arguments.add_argument("--markdown", metavar="FILE", type=Path, help="put the table into this page")
    options = arguments.parse_args(argv)
    is_own = options.model.suffix == ".keras"
    if is_own != bool(options.images and options.labels):
        arguments.error("--images and --labels belong to a .keras file; a folder of the quickstart has none.")
    file = options.model if is_own else options.model / "model.keras"
    if not file.exists():
        arguments.error(f"There must be a model in {file}. Give a .keras file, or a folder of the quickstart.")
    name = "pictures" if is_own else "scenes"
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    if options.markdown and not (options.markdown.exists() and marks[0] in options.markdown.read_text()):
        arguments.error(
            f"--markdown must be a page with the lines {' and '.join(marks)}. Received: {options.markdown}."
        )
    model = keras.saving.load_model(file, compile=False)
    if is_own:
        rule = command_line.label_rule(options)
        found = [labelled_pictures(model, *both, rule) for both in zip(options.images, options.labels, strict=True)]
    else:
        found = [drawn_scenes(options.scenes, seed) for seed in SEEDS]
    pictures, truths = zip(*found, strict=True)
    lines, plain = [], None
    for words, choice in choices(model, *pictures[0][0].shape[:2]).items():
        network, protocol, of_segment = choice
        shares = [probabilities(network, protocol, some, of_segment) for some in pictures]
        seconds = seconds_of(network, protocol, pictures[0], of_segment)
        lines.append((words, *scores_of(map(best_labels, shares), truths, model), seconds))
        print(*lines[-1])
        plain = plain or (shares, seconds)
    shares, seconds = plain
    part = np.s_[::EVERY, ::EVERY]
    weights = fitted_weights([one[part] for one in shares[0]], [one[part] for one in truths[0]])
    for words, decide in {"by rank": by_rank, "by weights": lambda some: best_labels(some, weights)}.items():
        since = time.perf_counter()
        labels = [decide(some) for some in shares]
        more = (time.perf_counter() - since) / sum(map(len, pictures))
        lines.append((words, *scores_of(labels, truths, model), seconds + more))
    first = lines[0]
    table = [f"| choice | mIoU, {name} to choose on | mIoU, others | gain on these | time |", "|---|---|---|---|---|"]
    for words, chosen, scored, taken in lines:
        table.append(f"| {words} | {chosen:.2f} | {scored:.2f} | {scored - first[2]:+.2f} | {taken / first[3]:.2f} |")
    print(*table, sep="\n")
    print("weights:", np.round(weights, 2), machine())
    if options.markdown:
        before, _, rest = options.markdown.read_text().partition(f"{marks[0]}\n")
        after = rest.partition(marks[1])[2]
        options.markdown.write_text(f"{before}{marks[0]}\n" + "\n".join(table) + f"\n{marks[1]}{after}")


def scores_of(label_maps, truths, model):
    """The mIoU of the pictures to choose on and of the others."""
    return [miou(found, truth, model.num_classes) for found, truth in zip(label_maps, truths, strict=True)]


if __name__ == "__main__":
    command_line.run(main)
