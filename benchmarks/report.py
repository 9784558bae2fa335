"""Lines measured by compare.py in; tables and sections of a page out, and back."""

import datetime
import json
import os
import platform
import re
from pathlib import Path

import numpy as np

TIMES = ["line", "ours, s", "original, s", "its fastest way", "original / ours", "pair by pair"]
OTHER = ["ours, s", "other, s", "other / ours", "pair by pair", "ours, MiB", "other, MiB"]
MEMORY = ["ours, MiB", "original, MiB", "ours / original"]
HEADS = {name: TIMES for name in ("network", "step", "segment", "serving", "input", "conversion")} | {
    "network": [*TIMES, "matrix product's speed, GFLOP/s", "reached"],
    "memory": ["line", *MEMORY],
    "growth": ["line", "ours, s", "original, s", "original / ours", *MEMORY],
    "runtimes": ["line", *OTHER],
}


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
    if name == "runtimes":
        return [label, *times, ratio, pairs, *memory[:2]]
    roofline = line.get("roofline")
    share = [f"{roofline['peak'] / 1e9:.0f}", f"{roofline['seconds'] / min(ours['seconds']):.0%}"] if roofline else []
    return [label, *times, theirs["way"] if theirs else "-", ratio, pairs, *share]


def seconds(side):
    """The best of a side's seconds, with the median in brackets."""
    return f"{min(side['seconds']):.3g} ({np.median(side['seconds']):.3g})"


def ratio_of(line):
    """The original's best time divided by ours; of a line that was read from a page, the ratio as printed."""
    return line["ratio"] if "ratio" in line else min(line["original"]["seconds"]) / min(line["ours"]["seconds"])


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


def read(path):
    """The results in the tables of a page that `fill` wrote, as far as plots need them; the inverse of `cells`.

    Returns:
        {name of the table: lines}. Times are the best ones, ratios as printed, and memory is None where the table has none.
    """
    page, results = Path(path).read_text(), {}
    for name, head in HEADS.items():
        if section := re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.S):
            rows = [row.strip("| ").split(" | ") for row in section[1].splitlines() if row.startswith("|")][2:]
            results[name] = [line_of(name, dict(zip(head, row, strict=True))) for row in rows]
    return results


def line_of(name, cell):
    """A line of results, from {head of a column: cell}."""
    label, _, precision = cell["line"].partition(" (")[0].rpartition(", ")
    if precision not in ("float32", "bfloat16"):  # the input pipeline has one line for both
        label, precision = cell["line"], "float32"
    cell = {head.replace("other", "original"): text for head, text in cell.items()}
    line = {"line": cell["line"], "precision": precision}
    for side in ("ours", "original"):
        if cell.get(f"{side}, s", cell.get(f"{side}, MiB")) != "-":
            seconds = [float(cell[f"{side}, s"].split()[0])] if f"{side}, s" in cell else []
            memory = float(cell[f"{side}, MiB"]) * 2**20 if f"{side}, MiB" in cell else None
            line[side] = {"seconds": seconds, "memory": memory}
    if "original" in line and "original / ours" in cell:
        line["ratio"] = float(cell["original / ours"])
    if name == "growth":
        line["row"], x, line["sweep"] = label.rsplit(" ", 2)
        line["x"] = float(x)
    return line
