"""The scores of an evaluation in, one HTML page out. The page embeds its pictures and styles, and loads nothing else."""

import base64
import html
import io
import math
from datetime import datetime
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.catalog.protocol import box_text
from keras_deeplab.evaluation.evaluate import read_pair
from keras_deeplab.inference.segment import segment
from keras_deeplab.pictures.draw import label_picture, shares_by_area
from keras_deeplab.version import __version__

PICTURES_SHOWN = 4  # at most, of the worst and of the best ones
LONG_SIDE = 480  # pixels, of a picture on the page
# With more, the matrix has the classes' numbers in place of names, no shares, and the scores of the classes come last.
MAX_NAMED_CLASSES = 30
CONFUSIONS_LISTED = 12
RIGHT, WRONG = (47, 111, 222), (224, 36, 36)  # colours (R, G, B)

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --back: #f6f7f9; --card: #ffffff; --text: #1b1f24; --dim: #5c6670; --line: #dde1e6;
  --bar: #2f6fde; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --back: #101317; --card: #191d23; --text: #e8eaed; --dim: #9aa4af; --line: #2c323a; --bar: #6aa0ff; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--back); color: var(--text); font: 16px/1.45 system-ui, sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 16px; }}
h1 {{ font-size: 1.35rem; margin: 8px 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin: 0 0 12px; }}
p {{ margin: 4px 0 12px; color: var(--dim); overflow-wrap: anywhere; }}
section {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; margin: 16px 0; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; }}
.tile {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px; }}
.tile b {{ display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; }}
.tile span, .dim {{ color: var(--dim); font-size: .85rem; }}
.classes {{ display: grid; grid-template-columns: 1fr; gap: 6px 32px; }}
.class {{ display: grid; grid-template-columns: 14px minmax(0, 8em) 1fr 3.2em 3.2em; gap: 8px; align-items: center;
  font-size: .9rem; font-variant-numeric: tabular-nums; }}
@media (min-width: 760px) {{ .classes {{ grid-template-columns: 1fr 1fr; }}
  .class {{ grid-template-columns: 14px minmax(0, 10em) 1fr 3.6em 3.6em; }} }}
.class > :nth-child(n+4) {{ text-align: right; }}
.name {{ overflow-wrap: break-word; }}
.swatch {{ flex: none; width: 14px; height: 14px; border-radius: 4px; border: 1px solid var(--line); }}
.track {{ background: var(--line); border-radius: 4px; height: 10px; overflow: hidden; }}
.track i {{ display: block; height: 100%; background: var(--bar); }}
svg {{ display: block; width: 100%; height: auto; max-width: 900px; margin: 0 auto; fill: currentColor; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }}
td, th {{ text-align: left; padding: 4px 8px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
td:nth-child(n+3), th:nth-child(n+3) {{ text-align: right; }}
td:last-child, th:last-child {{ padding-right: 0; }}
.scroll {{ overflow-x: auto; }}
.shares {{ paint-order: stroke; stroke: var(--card); stroke-width: 4px; }}
.key {{ display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .85rem; color: var(--dim); margin: 8px 0 20px; }}
.key span {{ display: flex; gap: 5px; align-items: center; }}
.views {{ display: grid; grid-template-columns: repeat(2, 1fr); gap: 8px; }}
@media (min-width: 760px) {{ .views {{ grid-template-columns: repeat(4, 1fr); }} }}
figure {{ margin: 0; }}
figure img {{ display: block; width: 100%; border-radius: 8px; }}
figcaption {{ color: var(--dim); font-size: .8rem; padding-top: 2px; }}
h3 {{ font-size: .95rem; margin: 16px 0 6px; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def write(to, title, model, pairs, results, *, about, tiles=(), label_rule, **protocol):
    """Writes the page to `to`/index.html.

    Args:
        to: a folder that exists.
        title: whose scores these are: the model and its weights.
        model: the model that was evaluated.
        pairs: the labelled pictures that it was evaluated on, a `FilePairs` or `PreparedPairs`.
        results: what `keras_deeplab.evaluate` returned.
        about: what the scores were measured on, in a few words.
        tiles: (name, score in percent) of what stands beside the mIoU, such as the published one.
        label_rule, protocol: the options of `evaluate`: a dict of `reduce_zero_label` and `label_map`, and `multi_scale_flip`
            and `resize`.

    Returns:
        `pathlib.Path` of the page.
    """
    scored = [i for i, picture in enumerate(results["pictures"]) if picture["mIoU"] is not None]
    scored.sort(key=lambda i: results["pictures"][i]["mIoU"])
    worst = scored[: min(PICTURES_SHOWN, (len(scored) + 1) // 2)]  # no picture is both among the worst and the best
    best = scored[len(worst) :][::-1][:PICTURES_SHOWN]

    def figures(numbers):
        return "".join(picture_row(model, pairs, i, results["pictures"][i], label_rule, protocol) for i in numbers)

    body = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(f'{about}. {describe(model, protocol)}')}</p>",
        score_tiles(results, tiles),
        section("Confusion", confusion(model, np.array(results["confusion"]))),
        section("Worst pictures", figures(worst)),
        section("Best pictures", figures(best)) if best else "",
        f"<p>Written on {datetime.now():%Y-%m-%d at %H:%M} by keras_deeplab {__version__}, with Keras {keras.__version__} and "
        f"TensorFlow {tf.__version__}.</p>",
    ]
    position = 2 if model.num_classes <= MAX_NAMED_CLASSES else len(body) - 1
    body.insert(position, section("Classes", class_bars(model, results)))
    path = Path(to) / "index.html"
    path.write_text(PAGE.format(title=html.escape(title), body="\n".join(body)), encoding="utf-8")
    return path


def section(title, content):
    """A box with a heading."""
    return f"<section><h2>{title}</h2>{content}</section>"


def describe(model, protocol):
    """The test protocol in words; `protocol` holds the options that were given in place of the model's own."""
    own = model.protocol
    parts = ["the whole picture at once"]
    if own.mode == "slide":
        parts = [f"windows of {own.crop[0]}x{own.crop[1]} every {own.stride[0]}x{own.stride[1]}"]
    box = protocol["resize"] or own.resize
    if box and protocol["multi_scale_flip"] != "picture":
        parts.append(f"resized {box_text(box)}")
    if protocol["multi_scale_flip"]:
        of_box = box and protocol["multi_scale_flip"] != "picture"  # without a box, its sides are the picture's
        parts.append(f"six scales of the {'box' if of_box else 'picture'}, each plain and mirrored")
    return "Tested on " + ", ".join(parts) + ". Pixels labelled 255 do not count."


def score_tiles(results, tiles):
    """The means, the scores of `tiles` and the number of pictures, in large figures."""
    values = [(name, percent(results[name])) for name in ("mIoU", "mAcc", "aAcc")] + [("pictures", results["images"])]
    values[1:1] = [(html.escape(name), percent(score)) for name, score in tiles]
    cells = (f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in values)
    return f'<div class="tiles">{"".join(cells)}</div>'


def class_bars(model, results):
    """A bar for the IoU of each class, the highest first, and classes without one last."""
    values, names = results["per_class"], numbered(model.classes)
    order = sorted(range(model.num_classes), key=lambda i: -1 if values[i]["IoU"] is None else values[i]["IoU"])[::-1]
    lines = []
    for i in order:
        iou, accuracy = values[i]["IoU"], values[i]["Acc"]
        lines.append(
            f'<div class="class"><span class="swatch" style="background:rgb{model.palette[i]}"></span>'
            f'<span class="name">{html.escape(names[i])}</span>'
            f'<span class="track"><i style="width:{iou or 0:.1f}%"></i></span>'
            f'<b>{percent(iou)}</b><span class="dim">{percent(accuracy)}</span></div>'
        )
    note = (
        "<p>The bar and the bold number: intersection over union. The last number: accuracy, the share of the class's "
        "labelled pixels that are predicted right.</p>"
    )
    return f'{note}<div class="classes">{"".join(lines)}</div>'


def numbered(classes):
    """The names of the classes, with their numbers in front if the matrix shows these alone."""
    names = [name.strip() for name in classes]
    return names if len(names) <= MAX_NAMED_CLASSES else [f"{i} {name}" for i, name in enumerate(names)]


def confusion(model, counts):
    """The confusion matrix as a picture, and a table of the largest errors.

    Args:
        model: for the names of the classes.
        counts: (classes, classes) int, pixels by (label, prediction).
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    pixels = np.empty((*counts.shape, 4), np.uint8)
    pixels[..., :3], pixels[errors == 0, :3] = WRONG, RIGHT
    pixels[..., 3] = np.round(255 * np.sqrt(shares))  # the square root makes small shares visible
    names = [html.escape(name) for name in numbered(model.classes)]
    largest = np.argsort(-errors, axis=None, kind="stable")[:CONFUSIONS_LISTED]
    rows = "".join(
        f"<tr><td>{names[label]}</td><td>{names[prediction]}</td>"
        f"<td>{100 * shares[label, prediction]:.1f} %</td>"
        f"<td>{100 * errors[label, prediction] / counts.sum():.2f} %</td></tr>"
        for label, prediction in zip(*np.unravel_index(largest, errors.shape), strict=True)
        if errors[label, prediction]
    )
    by_number = len(names) > MAX_NAMED_CLASSES
    note = (
        f"<p>A row is a label, a column is a prediction{', both by number' if by_number else ''}. Blue pixels are right, "
        "red ones are wrong. A stronger colour is a larger share of the row's pixels (its square root)."
        f"{'' if by_number else ' Numbers are these shares in percent.'}</p>"
    )
    head = "<tr><th>label</th><th>prediction</th><th>of the label's pixels</th><th>of all pixels</th></tr>"
    matrix = f'<div class="scroll">{matrix_svg(pixels, model.classes, shares)}</div>'
    return f'{note}{matrix}<h3>Most frequent errors</h3><div class="scroll"><table>{head}{rows}</table></div>'


def matrix_svg(pixels, classes, shares):
    """An SVG of the confusion matrix, with the classes on the left and on top: their names, or every tenth number.

    With names, a cell has its share in percent, if it is at least a half.

    Args:
        pixels: (classes, classes, 4) uint8, RGB and opacity. They become a square of 900 units.
        classes: the names.
        shares: (classes, classes) of 0..1, of the pixels of a row.
    """
    has_names = len(classes) <= MAX_NAMED_CLASSES
    margin, cell = (250 if has_names else 50), 900 / len(classes)
    size = max(14, min(32, 0.7 * cell))
    texts = []
    for i in range(0, len(classes), 1 if has_names else 10):
        text, middle = html.escape(classes[i].strip()[:22]) if has_names else i, margin + (i + 0.5) * cell
        for position in (
            f'x="{margin - 8}" y="{middle:.0f}" text-anchor="end"',
            f'transform="translate({middle:.0f} {margin - 8}) rotate(-90)"',
        ):
            texts.append(f'<text {position} font-size="{size:.0f}" dy=".35em">{text}</text>')
    cells = [
        f'<text x="{margin + (x + 0.5) * cell:.0f}" y="{margin + (y + 0.5) * cell:.0f}">{100 * shares[y, x]:.0f}</text>'
        for y, x in (np.argwhere(shares >= 0.005) if has_names else ())
    ]
    numbers = (
        f'<g class="shares" text-anchor="middle" dominant-baseline="central" font-size="{min(28, 0.42 * cell):.0f}">'
    )
    square = f'x="{margin}" y="{margin}" width="900" height="900"'
    count = len(classes)
    # Narrower pages scroll it.
    widths = f"min-width:{200 + 20 * count}px;max-width:{min(900, 260 + 70 * count)}px" if has_names else ""
    return (
        f'<svg viewBox="0 0 {margin + 902} {margin + 902}" style="{widths}" role="img" '
        f'aria-label="confusion matrix">{"".join(texts)}'
        f'<image {square} preserveAspectRatio="none" style="image-rendering:pixelated" href="{data_uri(pixels, "PNG")}"/>'
        f'<rect {square} fill="none" stroke="currentColor" opacity=".3"/>{numbers}{"".join(cells)}</g></svg>'
    )


def picture_row(model, pairs, number, score, label_rule, protocol):
    """A picture, its label map, its prediction and its errors, side by side.

    Args:
        model, pairs, label_rule, protocol: as for `write`.
        number: of the pair.
        score: {"name", "mIoU"} of the picture.
    """
    name, image, truth = read_pair(pairs, number, model, **label_rule)
    predicted = segment(model, image, **protocol)
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    errors = np.where((truth == IGNORE)[..., None], 0.25 * grey, 0.5 * grey + 64)
    errors[(truth != predicted) & (truth != IGNORE)] = WRONG
    sources = {
        "picture": data_uri(shrunk(image, Image.Resampling.LANCZOS), "JPEG"),
        "label (striped: ignored)": coloured(truth, model.palette),
        "prediction": coloured(predicted, model.palette),
        "errors are red, ignored pixels are dark": data_uri(
            shrunk(errors.astype(np.uint8), Image.Resampling.BOX), "JPEG"
        ),
    }
    figures = "".join(
        f'<figure><img src="{source}" alt="{caption}" loading="lazy"><figcaption>{caption}</figcaption></figure>'
        for caption, source in sources.items()
    )
    title = f"{html.escape(name)} <span class=dim>mIoU {score['mIoU']:.1f}</span>"
    return f'<h3>{title}</h3><div class="views">{figures}</div>{key(np.stack([truth, predicted]), model)}'


def key(labels, model):
    """The colours and names of the classes in label maps, with their shares, the largest first."""
    entries = (
        (f'<i class="swatch" style="background:rgb{model.palette[i]}"></i>' if i is not None else "")
        + html.escape(text)
        for i, text in shares_by_area(labels, model.classes)
    )
    return f'<div class="key">{"".join(f"<span>{entry}</span>" for entry in entries)}</div>'


def percent(value):
    """A score in percent as text; "-" for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def shrunk(array, resampling):
    """An array as a PIL image whose long side is at most `LONG_SIDE`."""
    image = Image.fromarray(array)
    factor = min(1, LONG_SIDE / max(image.size))
    return image.resize([max(1, round(side * factor)) for side in image.size], resampling)


def coloured(labels, palette):
    """A label map in the colours of the palette, as the data URI of a PNG."""
    return data_uri(label_picture(np.asarray(shrunk(labels, Image.Resampling.NEAREST)), palette), "PNG")


def data_uri(image, file_format):
    """A PIL image or an array as a data URI, the text of a picture that stands in the page itself."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, file_format, **({"quality": 82} if file_format == "JPEG" else {"optimize": True}))
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
