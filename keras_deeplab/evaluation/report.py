"""What an evaluation found, as one HTML page that needs nothing else: no script, no font, no file beside it."""

import base64
import html
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from keras_deeplab.catalog.datasets import IGNORE
from keras_deeplab.evaluation.evaluate import read_pair
from keras_deeplab.inference.segment import segment
from keras_deeplab.pictures.draw import palette_image

SHOWN = 4  # worst and best pictures
SIDE = 480  # pixels, the longer side of a picture on the page
NAMED = 40  # classes, up to which they come first, and the confusion matrix has their names beside it
PAIRS = 12  # confusions in the list
RIGHT, WRONG = (47, 111, 222), (224, 36, 36)

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
.class {{ display: grid; grid-template-columns: 14px minmax(0, 7em) 1fr 3.5em 3.5em; gap: 8px; align-items: center;
  font-size: .9rem; font-variant-numeric: tabular-nums; }}
@media (min-width: 760px) {{ .classes {{ grid-template-columns: 1fr 1fr; }}
  .class {{ grid-template-columns: 14px minmax(0, 10em) 1fr 3.6em 3.6em; }} }}
.class > :nth-child(n+4) {{ text-align: right; }}
.name {{ overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
.swatch {{ width: 14px; height: 14px; border-radius: 4px; border: 1px solid var(--line); }}
.track {{ background: var(--line); border-radius: 4px; height: 10px; overflow: hidden; }}
.track i {{ display: block; height: 100%; background: var(--bar); }}
svg {{ display: block; width: 100%; height: auto; max-width: 900px; margin: 0 auto; fill: currentColor; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }}
td, th {{ text-align: left; padding: 4px 8px 4px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }}
td:nth-child(n+3), th:nth-child(n+3) {{ text-align: right; }}
td:last-child, th:last-child {{ padding-right: 0; }}
.views {{ display: grid; grid-template-columns: repeat(2, 1fr); gap: 8px; margin-bottom: 20px; }}
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


def write(to, row, model, pairs, found, published, *, reduce_zero_label, **protocol):
    """Writes `to`/index.html.

    Args:
        to: a folder that exists.
        row: of the zoo's table.
        model: what was evaluated, on `pairs`; `found` is what `keras_deeplab.evaluate` returned.
        published: mIoU in percent of the row by this protocol, or None.
        reduce_zero_label, protocol: as they were given to it.

    Returns:
        Path of the page.
    """
    scored = [i for i, picture in enumerate(found["pictures"]) if picture["mIoU"] is not None]
    scored.sort(key=lambda i: found["pictures"][i]["mIoU"])
    worst = scored[: min(SHOWN, (len(scored) + 1) // 2)]
    best = scored[len(worst) :][::-1][:SHOWN]

    def shown(numbers):
        return "".join(views(model, pairs, i, found["pictures"][i], reduce_zero_label, protocol) for i in numbers)

    body = [
        f"<h1>{html.escape(row.name)}</h1><p>{html.escape(describe(model, protocol))}</p>",
        tiles(found, published),
        section("Confusion", confusion(model, np.array(found["confusion"]))),
        section("Worst pictures", shown(worst)),
        section("Best pictures", shown(best)) if best else "",
    ]
    body.insert(2 if model.num_classes <= NAMED else len(body), section("Classes", bars(model, found)))
    place = Path(to) / "index.html"
    place.write_text(
        PAGE.format(title=f"Evaluation of {html.escape(row.name)}", body="\n".join(body)), encoding="utf-8"
    )
    return place


def section(title, content):
    return f"<section><h2>{title}</h2>{content}</section>"


def describe(model, protocol):
    """The test protocol in words."""
    fixed = model.protocol
    parts = ["the whole picture at once"]
    if fixed.mode == "slide":
        parts = [f"windows of {fixed.crop[0]}x{fixed.crop[1]} every {fixed.stride[0]}x{fixed.stride[1]}"]
    box = protocol["resize"] or fixed.resize
    if box and protocol["multi_scale_flip"] != "picture":
        parts.append(f"resized to fit {max(box)}x{min(box)}")
    if protocol["multi_scale_flip"]:
        parts.append(f"six scales of the {protocol['multi_scale_flip']}, each plain and mirrored")
    return "Tested on " + ", ".join(parts) + ". Pixels labelled 255 do not count."


def tiles(found, published):
    values = [(name, percent(found[name])) for name in ("mIoU", "mAcc", "aAcc")] + [("pictures", found["images"])]
    if published is not None:
        values.insert(1, ("mIoU published, on its data set", percent(published)))
    cells = (f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in values)
    return f'<div class="tiles">{"".join(cells)}</div>'


def bars(model, found):
    """A bar for the IoU of each class, highest first; those that never occur last."""
    values = found["per_class"]
    order = sorted(range(model.num_classes), key=lambda i: -1 if values[i]["IoU"] is None else values[i]["IoU"])[::-1]
    lines = []
    for i in order:
        iou, accuracy = values[i]["IoU"], values[i]["Acc"]
        lines.append(
            f'<div class="class"><span class="swatch" style="background:rgb{model.palette[i]}"></span>'
            f'<span class="name">{html.escape(model.classes[i].strip())}</span>'
            f'<span class="track"><i style="width:{iou or 0:.1f}%"></i></span>'
            f'<b>{percent(iou)}</b><span class="dim">{percent(accuracy)}</span></div>'
        )
    note = "<p>Bar and bold: intersection over union; beside it the share of the labelled pixels that were found.</p>"
    return f'{note}<div class="classes">{"".join(lines)}</div>'


def confusion(model, counts):
    """The matrix as a picture, each row divided by its sum, and the largest errors in words."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    pixels = np.empty((*counts.shape, 4), np.uint8)
    pixels[..., :3], pixels[errors == 0, :3] = WRONG, RIGHT
    pixels[..., 3] = np.round(255 * np.sqrt(shares))  # the root: small shares are what one looks for
    largest = np.argsort(-errors, axis=None, kind="stable")[:PAIRS]
    rows = "".join(
        f"<tr><td>{html.escape(model.classes[label].strip())}</td><td>{html.escape(model.classes[taken].strip())}</td>"
        f"<td>{100 * shares[label, taken]:.1f} %</td><td>{100 * errors[label, taken] / counts.sum():.2f} %</td></tr>"
        for label, taken in zip(*np.unravel_index(largest, errors.shape), strict=True)
        if errors[label, taken]
    )
    note = (
        "<p>A row is a label, a column a prediction, the colour's strength the root of the share of the row's pixels: "
        "blue right, red wrong.</p>"
    )
    head = "<tr><th>labelled</th><th>taken for</th><th>of its pixels</th><th>of all</th></tr>"
    return f"{note}{matrix(pixels, model.classes)}<h3>Most pixels lost</h3><table>{head}{rows}</table>"


def matrix(pixels, classes):
    """(classes, classes, 4) uint8 as a square of 900 units, with names, or numbers, on two sides."""
    named = len(classes) <= NAMED
    margin, cell = (250 if named else 50), 900 / len(classes)
    size = max(14, min(32, 0.7 * cell))
    texts = []
    for i in range(0, len(classes), 1 if named else 10):
        text, middle = html.escape(classes[i].strip()[:22]) if named else i, margin + (i + 0.5) * cell
        for place in (
            f'x="{margin - 8}" y="{middle:.0f}" text-anchor="end"',
            f'transform="translate({middle:.0f} {margin - 8}) rotate(-90)"',
        ):
            texts.append(f'<text {place} font-size="{size:.0f}" dy=".35em">{text}</text>')
    square = f'x="{margin}" y="{margin}" width="900" height="900"'
    return (
        f'<svg viewBox="0 0 {margin + 902} {margin + 902}" role="img" aria-label="confusion matrix">{"".join(texts)}'
        f'<image {square} preserveAspectRatio="none" style="image-rendering:pixelated" href="{data(pixels, "PNG")}"/>'
        f'<rect {square} fill="none" stroke="currentColor" opacity=".3"/></svg>'
    )


def views(model, pairs, number, picture, reduce_zero_label, protocol):
    """A picture, its label map, its prediction and where they differ, side by side."""
    name, image, truth = read_pair(pairs, number, model.num_classes, reduce_zero_label)
    predicted = segment(model, image, **protocol)
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    errors = np.where((truth == IGNORE)[..., None], 0.25 * grey, 0.5 * grey + 64)
    errors[(truth != predicted) & (truth != IGNORE)] = WRONG
    shown = {
        "picture": data(small(image, Image.Resampling.LANCZOS), "JPEG"),
        "label": coloured(truth, model.palette),
        "prediction": coloured(predicted, model.palette),
        "errors; dark: ignored": data(small(errors.astype(np.uint8), Image.Resampling.BOX), "JPEG"),
    }
    figures = "".join(
        f'<figure><img src="{source}" alt="{caption}" loading="lazy"><figcaption>{caption}</figcaption></figure>'
        for caption, source in shown.items()
    )
    title = f"{html.escape(name)} <span class=dim>mIoU {picture['mIoU']:.1f}</span>"
    return f'<h3>{title}</h3><div class="views">{figures}</div>'


def percent(value):
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def small(array, resampling):
    image = Image.fromarray(array)
    factor = min(1, SIDE / max(image.size))
    return image.resize([max(1, round(side * factor)) for side in image.size], resampling)


def coloured(labels, palette):
    """A label map in its colours, as a data URI."""
    return data(palette_image(np.asarray(small(labels, Image.Resampling.NEAREST)), palette), "PNG")


def data(image, kind):
    """A picture as a data URI."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
