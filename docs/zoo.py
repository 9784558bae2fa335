"""The table of released models in; the README's table and a page for each model out.

    python docs/zoo.py

writes the README's table again, between <!-- models --> and <!-- /models -->. The site's configuration, conf.py, calls
`write_cards`. Every figure is that of `kd.list_presets(details=True)`, of docs/agreement.json or of docs/performance.md.
"""

import collections
import json
import re
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "benchmarks")]

import report  # noqa: E402
from originals import ORIGINALS  # noqa: E402

import keras_deeplab as kd  # noqa: E402
from keras_deeplab.catalog import rows  # noqa: E402
from keras_deeplab.catalog.datasets import TRAINED_ON  # noqa: E402
from keras_deeplab.catalog.protocol import box_text  # noqa: E402

COLUMNS = {"cityscapes": "Cityscapes", "ade20k": "ADE20K", "voc12aug": "VOC 2012"}  # with a column of their own
SPEED_SIZE = "512x1024"  # of the README's column, height x width
SHORT_CLASS = {"DeepLabV3": "V3", "DeepLabV3Plus": "V3+"}
PAPERS = {"DeepLabV3": "Rethinking Atrous", "DeepLabV3Plus": "Encoder-Decoder", "OpenMMLab": "MMSegmentation"}


# The README's table.


def models_table(presets):
    """A Markdown table with a line for each backbone, the smallest first, and the number of models of each source."""
    counts = collections.Counter(preset["source"] for preset in presets)
    sources = ", ".join(f"{count} of {source}" for source, count in counts.items())
    head = [
        "backbone",
        "file, MB",
        *(f"{title}, mIoU" for title in COLUMNS.values()),
        "other data sets, mIoU",
        "V3+, s",
    ]
    lines = [head, ["---"] * len(head)]
    for backbone, chosen in by_backbone(presets).items():
        best = best_scores(chosen)
        others = ", ".join(f"{name} {score:.1f}" for name, score in best.items() if name not in COLUMNS)
        own = [f"{best[name]:.1f}" if name in best else "-" for name in COLUMNS]
        lines.append(
            [backbone, span([preset["megabytes"] for preset in chosen]), *own, others or "-", speed_of(backbone)]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{len(presets)} models: {sources}.\n\n{table}\n"


def by_backbone(presets):
    """{backbone: its presets}, the backbone with the fewest parameters first."""
    groups = collections.defaultdict(list)
    for preset in sorted(presets, key=lambda preset: preset["parameters"]):
        groups[preset["backbone"]].append(preset)
    return groups


def best_scores(presets):
    """{data set: the highest mIoU published at one scale}, in the order of the data sets."""
    scores = collections.defaultdict(float)
    for preset in presets:
        scores[preset["dataset"]] = max(scores[preset["dataset"]], preset["mIoU"] or 0)
    return {name: scores[name] for name in TRAINED_ON if scores.get(name)}


def span(values):
    """ "48" or "48-99", whole numbers."""
    low, high = round(min(values)), round(max(values))
    return f"{low}" if low == high else f"{low}-{high}"


def speed_of(backbone, class_name="DeepLabV3Plus", size=SPEED_SIZE):
    """Seconds for the logits of a picture in float32, from the page of speeds; "-" where it was not measured."""
    line = measured("network").get(f"{named(class_name, backbone)} {size}, float32")
    return f"{line['ours']['seconds'][0]:.2g}" if line else "-"


def named(class_name, backbone):
    """The name in the page of speeds, such as "V3+ R-50". It has ResNets alone, "r50" and the like."""
    return f"{SHORT_CLASS[class_name]} {'R-' + backbone[1:] if backbone[0] == 'r' else backbone}"


@cache
def measured(table):
    """{line: its results} of a table of docs/performance.md."""
    return {line["line"]: line for line in report.read(HERE / "performance.md")[table]}


def fill(page, text):
    """The page with a text between <!-- models --> and <!-- /models -->."""
    return re.sub(
        r"(<!-- models -->\n).*?(<!-- /models -->)", lambda match: match[1] + text + match[2], page, flags=re.S
    )


# A page for each model.


def write_cards(folder):
    """Writes index.md and a page for each released model into a folder."""
    folder.mkdir(exist_ok=True)
    presets = kd.list_presets(details=True)
    for path in folder.glob("*.md"):  # of a build before a row was renamed
        if path.stem not in {"index", *(preset["name"] for preset in presets)}:
            path.unlink()
    for preset in presets:
        write(folder / f"{preset['name']}.md", card(preset, rows.find(preset["name"])))
    write(folder / "index.md", index(presets))


def write(path, text):
    """Writes a file if it has another text: the site's tool builds a page again that is newer."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def index(presets):
    """The table of all models."""
    lines = [
        f"| [{preset['name']}]({preset['name']}.md) | {TRAINED_ON[preset['dataset']].title} | {score(preset['mIoU'], '-')} "
        f"| {score(preset['mIoU_ms_flip'], '-')} | {preset['parameters'] / 1e6:.1f} | {preset['megabytes']:.0f} |"
        for preset in presets
    ]
    pages = "\n".join(preset["name"] for preset in presets)
    return f"""# The models

Every released model has a page: what it is, its classes, how it was tested and proven, and the code that loads it. mIoU is
the published one, in percent, at one scale and with several scales and flips (ms+flip).

| model | trained on | mIoU | ms+flip | parameters, M | file, MB |
|---|---|---|---|---|---|
{chr(10).join(lines)}

```{{toctree}}
:hidden:

{pages}
```
"""


def card(preset, row):
    """The page of a model: Markdown."""
    dataset = TRAINED_ON[row.dataset]
    steps = f", {row.iterations:,} steps" if row.iterations else ""
    facts = {
        "network": f"{preset['class_name']}, backbone {row.backbone}, output stride {row.output_stride}",
        "trained on": f"{dataset.title}, {dataset.num_classes} classes, crops of {row.crop[0]}x{row.crop[1]}{steps}",
        "published mIoU": f"{score(row.mIoU)}; with several scales and flips {score(row.mIoU_ms_flip)}",
        "tested": protocol(row.protocol),
        "parameters": f"{row.parameters:,}",
        "released file": f"`{row.file}`, {row.megabytes:.0f} MB",
        "licence": row.checkpoint_licence,
    }
    lines = "\n".join(f"| {name} | {text} |" for name, text in facts.items())
    return f"""# {row.name}

{preset["description"]}. Released by {row.publisher}.

| | |
|---|---|
{lines}

```python
import keras_deeplab as kd

model = kd.from_preset("{row.name}")
labels = kd.segment(model, "street.jpg")  # (height, width) uint8
```

## How it was proven

{proof(row)}

## Speed and memory

{speed(row)}

## Classes

{classes(row)}

## Citation

```bibtex
{citation(row)}
```
"""


def score(value, unknown="not published"):
    return unknown if value is None else f"{value:.2f}"


def protocol(p):
    """The test protocol in words."""
    how = f"in windows of {p.crop[0]}x{p.crop[1]}, {p.stride[0]} and {p.stride[1]} pixels apart" if p.crop else "whole"
    box = f", resized {box_text(p.resize)}{', with antialiasing' * p.antialias}" if p.resize else ", at its own size"
    pad = f", padded to {p.pad[0]}x{p.pad[1]}" if p.pad else ""
    return f"the picture {how}{box}{pad} ([test protocols](../evaluation.md#protocols))"


def proof(row):
    """What docs/agreement.json has on the network and the protocol of a row, in words."""
    found = agreement().get(key_of(row), [])
    page = {rows.authors.SOURCE: "authors", "torchvision": "torchvision"}.get(row.source)
    if not found and page:
        return (
            f"Its logits were compared with those of {row.source}'s own code: [figures](../{page}.md#what-was-proven)."
        )
    if not found:
        return "[How the networks were compared with their originals](../proof.md)."
    sentences = []
    for entry in found:
        which = "" if entry["row"] == row.name else f" as {entry['row']}, which has the same network and test"
        width = "with an eighth of the channels" if entry["narrow"] else "at full size"
        original = dict(ORIGINALS.values())[row.source]
        sentences.append(
            f"- Compared with {original} {width}{which}, on {entry['date']}: logits within {entry['logits']:.1e} of "
            f"their standard deviation, {100 * entry['labels']:.4f} % of the labels equal, mIoU within "
            f"{entry['mIoU difference']:.4f} points."
        )
    return (
        "\n".join(sentences)
        + "\n\nBoth sides had the same random weights ([how](../proof.md), [all](../agreement.md))."
    )


def key_of(row):
    """What benchmarks/agreement.py compares once: class, network and test protocol."""
    return repr((row.class_name, row.architecture, row.protocol))


@cache
def agreement():
    """{what `key_of` gives: entries of docs/agreement.json}, full size before narrow."""
    found = collections.defaultdict(list)
    for entry in sorted(json.loads((HERE / "agreement.json").read_text()), key=lambda entry: entry["narrow"]):
        found[key_of(rows.find(entry["row"]))].append(entry)
    return found


def speed(row):
    """The lines of docs/performance.md on a row's network at the size of its crop."""
    name = f"{named(row.class_name, row.backbone)} {row.crop[0]}x{row.crop[1]}"
    lines = []
    for precision in ("float32", "bfloat16") if row.output_stride == 8 and row.source == "OpenMMLab" else ():
        if line := measured("network").get(f"{name}, {precision}"):
            times = f"{line['ours']['seconds'][0]:.3g} s, {line['ratio']:.2f} times as fast as the original"
            memory = measured("memory").get(f"logits: {name}, {precision}")
            sides = [f"{memory[side]['memory'] / 2**20:.0f}" for side in ("ours", "original")] if memory else None
            space = f", in {sides[0]} MiB (the original: {sides[1]})" if sides else ""
            lines.append(f"- {precision}: logits in {times}{space}.")
    if not lines:
        return "Not measured. [What was measured](../performance.md)."
    size = f"A picture of {row.crop[0]}x{row.crop[1]} on two processor cores ([how](../performance.md)):"
    return f"{size}\n\n" + "\n".join(lines)


def classes(row):
    """The classes with their colours, in HTML."""
    spans = [
        f'<span class="class"><i style="background:rgb{colour}"></i>{number} {name.strip()}</span>'
        for number, (name, colour) in enumerate(zip(row.classes, row.palette, strict=True))
    ]
    return '<div class="classes">' + "\n".join(spans) + "</div>"


def citation(row):
    """The paper of a row's class, and the software of its source, in BibTeX; both are in CITATION.cff."""
    import yaml

    entries = yaml.safe_load((HERE.parent / "CITATION.cff").read_text())["references"]
    begins = [PAPERS[name] for name in (row.class_name, row.source) if name in PAPERS]
    return "\n\n".join(bibtex(entry) for begin in begins for entry in entries if entry["title"].startswith(begin))


def bibtex(entry):
    """A reference of CITATION.cff in BibTeX."""
    kind = {"article": "article", "conference-paper": "inproceedings"}.get(entry["type"], "misc")
    people = [person.get("name") or f"{person['family-names']}, {person['given-names']}" for person in entry["authors"]]
    fields = {"title": entry["title"], "author": " and ".join(people), "booktitle": entry.get("collection-title")}
    fields |= {"year": entry["year"], "url": entry["url"]}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@{kind}{{{people[0].split(',')[0].split()[0].lower()}{entry['year']},\n{lines}\n}}"


def main():
    readme = HERE.parent / "README.md"
    readme.write_text(fill(readme.read_text(), models_table(kd.list_presets(details=True))))


if __name__ == "__main__":
    main()
