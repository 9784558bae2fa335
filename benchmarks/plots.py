"""Results of compare.py in, two SVG plots out: ratios.svg, how many times faster, and growth.svg, time and memory as it grows.

    python benchmarks/plots.py

draws them again in docs/ from the tables of docs/performance.md. They are as wide as a phone, and dark where the reader's
pages are.
"""

import math
from html import escape
from pathlib import Path

import report

WIDTH, SHOWN_WIDTH = (
    440,
    640,
)  # the plots' own unit, so that 12 of it can be read on a phone; pixels where there is room
GROUPS = {
    "network": "Logits of a picture",
    "runtimes": "Logits, beside the original in other runtimes",
    "step": "A training step",
    "segment": "A file in, a label map out",
    "serving": "A request to the SavedModel",
    "input": "Input of a training step",
    "conversion": "A released file in, a model out",
}
COLOURS = {("ours", "float32"): "#2f81c7", ("ours", "bfloat16"): "#8cc4ea"}
COLOURS |= {("original", "float32"): "#cf4a3c", ("original", "bfloat16"): "#f0a69c"}
BARS = {"left": 232, "width": 168, "height": 10, "gap": 5, "head": 26}  # of ratios.svg
PANEL = {"left": 48, "top": 108, "width": 152, "height": 120, "across": 218, "down": 190}  # of growth.svg
AXES = {"megapixels": "picture, megapixels", "classes": "classes", "batch": "pictures in a batch"}
MEASURES = {
    "Time, s": lambda side: min(side["seconds"]),
    "Memory, MiB": lambda side: max(side["memory"] / 2**20, 1),
}
STYLE = """<style>
.paper { fill: #ffffff } .ink { fill: #1f2328 } .quiet { fill: #59636e } .line { stroke: #b5bcc4 } .strong { stroke: #1f2328 }
@media (prefers-color-scheme: dark) {
.paper { fill: #151b23 } .ink { fill: #f0f6fc } .quiet { fill: #a3adb8 } .line { stroke: #4b535d } .strong { stroke: #f0f6fc }
}
</style>"""


def plot(folder, results):
    """Writes ratios.svg and growth.svg into a folder, each if there are results for it."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = {
        title: [
            line for line in results.get(name, []) if "original" in line and (name != "runtimes" or is_original(line))
        ]
        for name, title in GROUPS.items()
    }
    if any(groups.values()):
        (folder / "ratios.svg").write_text(ratios({title: lines for title, lines in groups.items() if lines}))
    if results.get("growth"):
        (folder / "growth.svg").write_text(growth(results["growth"]))


def is_original(line):
    """Whether a line of the table of runtimes has logits of the original's network, not of our export."""
    return line["line"].startswith("logits: ") and ", our export in " not in line["line"]


def ratios(groups):
    """The plot of {title of a group: lines}: a bar for each line, from 0. A vertical line stands at 1."""
    scale = BARS["width"] / max(1.0, *(report.ratio_of(line) for lines in groups.values() for line in lines))
    y, body = 84, []
    for title, lines in groups.items():
        body.append(text(4, y + 14, title, "ink", weight="bold", size=13))
        y += BARS["head"]
        for label, pair in by_label(lines).items():
            body.append(text(BARS["left"] - 8, y + BARS["height"] * len(pair) / 2 + 4, label, "ink", "end", size=11))
            for line in pair:
                body += bar(line, y, scale)
                y += BARS["height"]
            y += BARS["gap"]
        y += BARS["gap"]
    one = BARS["left"] + scale
    head = [
        text(4, 18, "How many times faster than the original", "ink", weight="bold", size=15),
        text(4, 36, "Its best time / ours. Higher is better.", "quiet"),
        *legend([(precision, COLOURS["ours", precision]) for precision in ("float32", "bfloat16")], 50),
        text(one, 72, "1: as fast as the original", "ink", "middle"),
    ]
    return svg(
        y + 6, "How many times faster than the original", [*head, *body, stroke([(one, 77), (one, y)], "strong")]
    )


def by_label(lines):
    """{what is measured: its lines}, for a group; float32 before bfloat16."""
    labels = {}
    for line in lines:
        name = line["line"].removesuffix(f", {line['precision']}")
        labels.setdefault(name.partition(": ")[2] or name, []).append(line)
    return {label: sorted(pair, key=lambda line: line["precision"], reverse=True) for label, pair in labels.items()}


def bar(line, y, scale):
    """The bar of a line and its number."""
    ratio = report.ratio_of(line)
    colour = COLOURS["ours", line["precision"]]
    yield f'<rect x="{BARS["left"]}" y="{y}" width="{ratio * scale:.1f}" height="{BARS["height"] - 1}" fill="{colour}"/>'
    yield text(BARS["left"] + ratio * scale + 4, y + 8.5, f"{ratio:.2f}", "quiet", size=10)


def growth(lines):
    """The plot of the first row's lines: panels with logarithmic axes, a line of panels for each quantity that grows."""
    lines = [line for line in lines if line["row"] == lines[0]["row"]]
    sweeps = list(dict.fromkeys(line["sweep"] for line in lines))
    parts = [
        text(4, 18, "Time and memory as the work grows", "ink", weight="bold", size=15),
        text(4, 36, "All axes are logarithmic. Lower is better.", "quiet"),
        *legend([(" ".join(key), colour) for key, colour in COLOURS.items()], 50),
    ]
    for down, sweep in enumerate(sweeps):
        for across, (title, value) in enumerate(MEASURES.items()):
            left, top = PANEL["left"] + PANEL["across"] * across, PANEL["top"] + PANEL["down"] * down
            parts += panel(left, top, title, sweep, curves_of(lines, sweep, value))
    return svg(PANEL["top"] + PANEL["down"] * len(sweeps) - 24, "Time and memory as the work grows", parts)


def curves_of(lines, sweep, value):
    """{(side, precision): points (x, y)} of what grows, without curves that have no points."""
    curves = {
        (side, precision): sorted(
            (line["x"], value(line[side]))
            for line in lines
            if line["sweep"] == sweep and line["precision"] == precision and side in line
        )
        for side, precision in COLOURS
    }
    return {key: points for key, points in curves.items() if points}


def panel(left, top, title, sweep, curves):
    """A panel: its title, ticks with lines across, the curves with their points, and the name of what grows below."""
    points = [point for curve in curves.values() for point in curve]
    xs, ys = sorted({x for x, _ in points}), [y for _, y in points]
    across = Axis(xs[0], max(xs[-1], xs[0] * 1.01), left, PANEL["width"])
    up = Axis(nice(min(ys), down=True), nice(max(ys) * 1.01), top + PANEL["height"], -PANEL["height"])
    yield text(left, top - 8, title, "ink", weight="bold")
    for tick in apart(nice_ticks(up.low, up.high), up, 12):
        yield stroke([(left, up(tick)), (left + PANEL["width"], up(tick))], "line", width=0.5)
        yield text(left - 5, up(tick) + 4, short(tick), "quiet", "end", size=10)
    for tick in apart(xs, across, 22):
        yield stroke([(across(tick), top + PANEL["height"]), (across(tick), top + PANEL["height"] + 4)], "line")
        yield text(across(tick), top + PANEL["height"] + 15, short(tick), "quiet", "middle", size=10)
    yield text(left + PANEL["width"] / 2, top + PANEL["height"] + 31, AXES.get(sweep, sweep), "ink", "middle", size=11)
    for key, curve in curves.items():
        placed = [(across(x), up(y)) for x, y in curve]
        yield stroke(placed, colour=COLOURS[key], width=2)
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[key]}"/>' for x, y in placed)


class Axis:
    """A logarithmic axis: a value from low to high in, its place from `start` to `start + length` out."""

    def __init__(self, low, high, start, length):
        self.low, self.high, self.start, self.length = low, high, start, length

    def __call__(self, value):
        return self.start + self.length * math.log(value / self.low) / math.log(self.high / self.low)


def nice(value, down=False):
    """The next of ... 0.5, 1, 2, 5, 10 ... that is not smaller than a value; with `down` not larger."""
    power = math.floor(math.log10(value))
    steps = sorted(m * 10.0**p for m in (1, 2, 5) for p in (power - 1, power, power + 1))
    if down:
        return max(step for step in steps if step <= value * (1 + 1e-9))
    return min(step for step in steps if step >= value * (1 - 1e-9))


def nice_ticks(low, high):
    """All of ... 0.5, 1, 2, 5, 10 ... from low to high."""
    ticks = [low]
    while ticks[-1] < high * (1 - 1e-9):
        ticks.append(nice(ticks[-1] * 1.01))
    return ticks


def apart(ticks, axis, least):
    """The ticks, without those that come closer than `least` to a later one."""
    kept = []
    for tick in reversed(ticks):
        if not kept or abs(axis(tick) - axis(kept[-1])) >= least:
            kept.append(tick)
    return kept


def short(number):
    """A number with three digits at most, or as a whole number."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def legend(entries, y):
    """Coloured squares with their names, two in a line where there are more than two."""
    for i, (name, colour) in enumerate(entries):
        x, line = 4 + 130 * (i % 2), y + 16 * (i // 2)
        yield f'<rect x="{x}" y="{line - 1}" width="10" height="10" fill="{colour}"/>'
        yield text(x + 14, line + 8, name, "ink", size=11)


def text(x, y, words, kind, anchor="start", *, size=12, weight="normal"):
    attributes = f'x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}" font-size="{size}"'
    bold = ' font-weight="bold"' if weight == "bold" else ""
    return f"<text {attributes}{bold}>{escape(words, quote=False)}</text>"


def stroke(points, kind=None, *, colour=None, width=1.5):
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    look = f'class="{kind}"' if kind else f'stroke="{colour}"'
    return f'<polyline points="{corners}" fill="none" {look} stroke-width="{width}"/>'


def svg(height, title, parts):
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{SHOWN_WIDTH}" height="{height * SHOWN_WIDTH / WIDTH:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif" role="img">'
    paper = f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, paper, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    docs = Path(__file__).parents[1] / "docs"
    plot(docs, report.read(docs / "performance.md"))
