"""Lines measured by compare.py in; tables, sections of a page and SVG plots out."""

import datetime
import json
import math
import os
import platform
import re
from html import escape
from pathlib import Path

import numpy as np

TIMES = ["line", "ours, s", "original, s", "its fastest way", "original / ours", "pair by pair"]
MEMORY = ["ours, MiB", "original, MiB", "ours / original"]
HEADS = {name: TIMES for name in ("network", "step", "segment", "serving", "input", "conversion")} | {
    "network": [*TIMES, "matrix product's speed, GFLOP/s", "reached"],
    "memory": ["line", *MEMORY],
    "growth": ["line", "ours, s", "original, s", "original / ours", *MEMORY],
}
COLOURS = {("ours", "float32"): "#1f6fb4", ("ours", "bfloat16"): "#7fbde8"}
COLOURS |= {("original", "float32"): "#c0392b", ("original", "bfloat16"): "#eea39b"}


def cells(name, line):
    """The cells of a line in the table `name`. Seconds are the best of all turns, with the median in brackets."""
    ours, theirs = line["ours"], line.get("original")
    times = [seconds(ours), seconds(theirs) if theirs else "-"]
    ratio = f"{ratio_of(line):.2f}" if theirs else "-"
    memory = [f"{side['memory'] / 2**20:.0f}" if side else "-" for side in (ours, theirs)]
    memory.append(f"{ours['memory'] / max(theirs['memory'], 1):.2f}" if theirs else "-")
    label = line["line"] + (f" ({line['differs']}!)" if line.get("differs") else "")
    if name == "memory":
        return [label, *memory]
    if name == "growth":
        return [label, *times, ratio, *memory]
    pairs = "-"
    if theirs:
        pairs = "{:.2f}..{:.2f}".format(*np.quantile(np.divide(theirs["seconds"], ours["seconds"]), [0.25, 0.75]))
    roofline = line.get("roofline")
    share = [f"{roofline['peak'] / 1e9:.0f}", f"{roofline['seconds'] / min(ours['seconds']):.0%}"] if roofline else []
    return [label, *times, theirs["way"] if theirs else "-", ratio, pairs, *share]


def seconds(side):
    """The best of a side's seconds, with the median in brackets."""
    return f"{min(side['seconds']):.3g} ({np.median(side['seconds']):.3g})"


def ratio_of(line):
    """The original's best time divided by ours."""
    return min(line["original"]["seconds"]) / min(line["ours"]["seconds"])


def keep(path, results, known=None):
    """Adds results to those of a JSON file; a line that was measured before is replaced.

    Args:
        path: of the JSON file, which is written too; or None.
        results: {name of the table: lines}.
        known: earlier results, used if there is no file.

    Returns:
        All results.
    """
    if path and path.exists():
        known = json.loads(path.read_text())
    stored = dict(known or {})
    for name, lines in results.items():
        lines = [{**line, "date": str(datetime.date.today()), "machine": machine()} for line in lines]
        stored[name] = list({line["line"]: line for line in [*stored.get(name, []), *lines]}.values())
    if path:
        path.write_text(json.dumps(stored, indent=1) + "\n")
    return stored


def machine():
    """Processor, number of cores and matrix instructions, as Linux reports them."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    instructions = [name for name in ("avx512_bf16", "amx_bf16") if name in info]
    return (
        f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores, {' '.join(instructions)}"
    )


def fill(path, results):
    """Writes each table between <!-- NAME --> and <!-- /NAME --> of a page."""
    page = path.read_text()
    for name, lines in results.items():
        section = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not section.search(page):
            raise ValueError(
                f"The page must have the lines <!-- {name} --> and <!-- /{name} -->, between which the table is written. "
                f"Received: {path}, which has not."
            )
        rows = [HEADS[name], ["---"] * len(HEADS[name]), *(cells(name, line) for line in lines)]
        text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        page = section.sub(
            lambda match, text=text, lines=lines: f"{match[1]}{text}\n\n{origin(lines)}\n{match[2]}", page
        )
    path.write_text(page)


def origin(lines):
    """The sentence below a table: machine, software, date and number of turns of its lines."""
    software = {f"{name} {version}" for line in lines for name, version in line["versions"].items()}
    turns = {str(len(line["ours"]["seconds"])) for line in lines}
    parts = [{line["machine"] for line in lines}, software, {line["date"] for line in lines}]
    return "; ".join(", ".join(sorted(part)) for part in parts) + f"; {' or '.join(sorted(turns))} turns of each side."


def plot(folder, results):
    """Draws ratios.svg, how many times faster ours is, and growth.svg, seconds and MiB against what grows."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [name for name, head in HEADS.items() if head[: len(TIMES)] == TIMES and name in results]
    lines = [line for name in kinds for line in results[name] if "original" in line]
    if lines:
        (folder / "ratios.svg").write_text(svg(860, 40 + 20 * len(lines), bars(lines)))
    if results.get("growth"):
        (folder / "growth.svg").write_text(svg(900, 540, curves(results["growth"])))


def bars(lines):
    """A bar for each line: original / ours, from 0. The vertical line stands at 1."""
    scale = 400 / max(max(map(ratio_of, lines)), 1.0)
    yield text(430, 16, "original's best time / ours", "middle")
    for i, line in enumerate(lines):
        y, width = 30 + 20 * i, ratio_of(line) * scale
        yield text(400, y + 12, line["line"], "end")
        yield f'<rect x="410" y="{y}" width="{width:.1f}" height="15" fill="{COLOURS["ours", line["precision"]]}"/>'
        yield text(415 + width, y + 12, f"{ratio_of(line):.2f}")
    yield path_of([(410 + scale, 26), (410 + scale, 30 + 20 * len(lines))], "#444")


def curves(lines):
    """Panels with logarithmic axes for the first row: time above, memory below, a column for each quantity that grows."""
    lines = [line for line in lines if line["row"] == lines[0]["row"]]
    measures = {"s": lambda side: min(side["seconds"]), "MiB": lambda side: max(side["memory"] / 2**20, 1)}
    for column, sweep in enumerate(dict.fromkeys(line["sweep"] for line in lines)):
        for row, (unit, value) in enumerate(measures.items()):
            series = {
                key: [(line["x"], value(line[key[0]])) for line in lines if is_of(line, sweep, key)] for key in COLOURS
            }
            points = [point for values in series.values() for point in values]
            axes = [(min(v), max(max(v), min(v) * 1.01)) for v in zip(*points, strict=True)]
            left, top = 60 + 300 * column, 30 + 250 * row
            yield f'<rect x="{left}" y="{top}" width="220" height="190" fill="none" stroke="#999"/>'
            yield text(left + 110, top + 222, sweep, "middle") + text(left, top - 6, unit)
            for i, at in ((0, left), (1, left + 220)):
                yield text(at, top + 206, short(axes[0][i]), "middle")
                yield text(left - 4, top + 190 - 180 * i, short(axes[1][i]), "end")
            for key, values in series.items():
                curve = [
                    (left + 220 * position(axes[0], x), top + 190 - 190 * position(axes[1], y))
                    for x, y in sorted(values)
                ]
                yield path_of(curve, COLOURS[key]) if curve else ""
    for i, (key, colour) in enumerate(COLOURS.items()):
        yield text(60 + 200 * i, 530, " ".join(key), colour=colour)


def short(number):
    """A number with three digits at most, or as a whole number."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def is_of(line, sweep, key):
    """Whether a line belongs to the curve `key` (side, precision) of what grows."""
    side, precision = key
    return line["sweep"] == sweep and line["precision"] == precision and side in line


def position(axis, value):
    """Where a value lies on a logarithmic axis (from, to), as 0..1."""
    return math.log(value / axis[0]) / math.log(axis[1] / axis[0])


def text(x, y, words, anchor="start", colour="#222"):
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def path_of(points, colour):
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>'


def svg(width, height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>"]) + "\n"
