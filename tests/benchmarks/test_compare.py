"""The benchmarks run: our side's jobs at their smallest, and the command itself with stand-ins for both workers."""

import contextlib
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, ours, worker

ROW = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
SMALL = ["--rows", ROW, "--narrow", "--size", "33", "41", "--turns", "2", "--points", "2"]
PAGE = Path(compare.__file__).parents[1] / "docs" / "performance.md"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forward", "step", "segment", "serving", "conversion"])
def test_our_side_makes_and_passes(kind, tmp_path):
    size = dict(size=(33, 41))
    with compare.picture_file((33, 41)) as file:
        options = {
            "forward": size,
            "step": dict(batch=2, **size),
            "segment": dict(multi_scale_flip=False, classes=5, **file),
            "serving": file,
            "conversion": dict(checkpoint=str(tmp_path / "checkpoint.pth")),
        }[kind]
        functions = {}
        question = dict(make=kind, key="a", row=ROW, precision="float32", is_narrow=True, **options)
        made = worker.answer(question, functions, ours.MAKERS, ours.about)
        assert np.all(np.isfinite(made["result"]))
        assert kind == "step" or np.ptp(made["result"]) > 0  # a step gives one number, its loss
        assert worker.answer({"run": "a"}, functions, ours.MAKERS, ours.about)["seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forward", "serving"])
def test_our_files_give_the_same_in_other_runtimes(kind, tmp_path):
    for package in ("openvino", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package, reason="the files of other runtimes are written and run by it")
    from benchmarks import runtimes

    with compare.picture_file((64, 96)) as file:
        job = dict(row=ROW, precision="float32", is_narrow=True)
        ours.export(size=(64, 96), folder=tmp_path, to=kind, **job)
        expected = ours.MAKERS[kind](**job, **(file if kind == "serving" else dict(size=(64, 96))))[0]()
        for name, runtime in (("ours.xml", "OpenVINO"), ("ours.onnx", "ONNX Runtime")):
            picture = dict(picture=file["picture"]) if kind == "serving" else {}
            run, _ = runtimes.MAKERS[kind](str(tmp_path / name), runtime, "float32", **picture)
            assert not compare.differs(worker.sampled(expected), worker.sampled(run()), exact=True)


def test_arithmetic_counts_only_the_taps_that_lie_on_the_map():
    import keras

    images = keras.Input((None, None, 3))
    model = keras.Model(images, keras.layers.Conv2D(5, 3, dilation_rate=8, padding="same")(images))
    x = np.arange(12)
    taps_on_map = sum(np.sum((x + d >= 0) & (x + d < 12)) for d in (-8, 0, 8))  # along one axis
    assert ours.flop(model, 2, 12, 12) == pytest.approx(2 * 2 * 3 * 5 * taps_on_map**2)


class StandIn:
    """A worker whose passes take no time and return [[value]]."""

    def __init__(self, value):
        maker = lambda **options: (lambda: [value], {"flop": 1.0})  # noqa: E731
        self.makers = dict.fromkeys(ours.MAKERS, maker)
        self.functions = {}

    def ask(self, **question):
        return worker.answer(json.loads(json.dumps(question)), self.functions, self.makers, lambda: {"software": "1"})

    def close(self):
        del self.makers  # a later question is an error


def run(monkeypatch, arguments, theirs=1.0):
    @contextlib.contextmanager
    def sides(options):
        yield StandIn(1.0), StandIn(theirs) if options.original else None

    monkeypatch.setattr(compare, "sides", sides)
    monkeypatch.setattr(compare, "PAUSE", 0)
    compare.main([*arguments, *SMALL])


def test_every_line_runs_without_the_original(monkeypatch, capsys):
    run(monkeypatch, [])
    printed = capsys.readouterr().out
    assert all(f"\n{name}\n" in printed for name in compare.LINES) and "V3+ R-18 33x41, bfloat16" in printed


def test_results_are_kept_and_the_page_is_filled(monkeypatch, tmp_path, capsys):
    page, results_file = tmp_path / "performance.md", tmp_path / "results.json"
    page.write_text(PAGE.read_text())
    files = ["--original", "python", "--json", str(results_file), "--markdown", str(page), "--plot", str(tmp_path)]
    run(monkeypatch, ["network", *files])
    run(monkeypatch, ["growth", "network", *files], theirs=2.0)
    results = json.loads(results_file.read_text())
    assert sorted(results) == ["growth", "network"] and [len(lines) for lines in results.values()] == [2, 12]
    line = results["network"][0]
    assert len(line["ways"]) == 8 and len(line["original"]["seconds"]) == 2 and line["machine"]
    assert "| V3+ R-18 33x41, float32 (results differ by 50.0%!) |" in page.read_text()
    assert "2 turns of each side." in page.read_text()
    assert all((tmp_path / name).read_text().startswith("<svg") for name in ("ratios.svg", "growth.svg"))


def test_the_plots_of_the_docs_are_drawn_from_the_tables_of_the_page(tmp_path):
    results = compare.report.read(PAGE)
    assert {name for name, lines in results.items() if lines} == set(compare.LINES)
    (line,) = (line for line in results["network"] if line["line"] == "V3+ R-50 512x1024, float32")
    assert (line["ratio"], line["precision"]) == (2.03, "float32")
    assert (line["ours"]["seconds"], line["original"]["seconds"]) == ([1.26], [2.56])
    (line,) = (line for line in results["growth"] if line["line"] == "V3+ R-50 16 megapixels, bfloat16")
    assert (line["sweep"], line["x"], line["ours"]["memory"]) == ("megapixels", 16, 5394 * 2**20)
    compare.plots.plot(tmp_path, results)
    for name in ("ratios.svg", "growth.svg"):
        assert (tmp_path / name).read_text() == (PAGE.parent / name).read_text(), "run python benchmarks/plots.py"
        ET.parse(tmp_path / name)  # well-formed


def test_every_runtime_is_a_side_with_a_line_of_its_own(monkeypatch, tmp_path, capsys):
    asked = []

    class Side(StandIn):
        def __init__(self, python, script):
            super().__init__(1.0)
            self.makers |= {"export": lambda **options: asked.append(script) or (lambda: [0.0], {})}

    monkeypatch.setattr(compare, "Worker", Side)
    page = tmp_path / "performance.md"
    page.write_text("<!-- runtimes -->\n<!-- /runtimes -->\n")
    run(monkeypatch, ["runtimes", "--original", "python", "--runtime", "python", "--markdown", str(page)])
    assert asked == ["ours.py", "original.py"] * 2  # for logits and for requests
    lines = compare.report.read(page)["runtimes"]
    assert len(lines) == 2 * 2 * len(compare.RUNTIMES) and all(line["ratio"] > 0 for line in lines)
    assert "request: V3+ R-18 33x41, our export in OpenVINO, bfloat16" in page.read_text()


def test_ticks_are_round_numbers_that_stand_apart():
    plots = compare.plots
    assert (plots.nice(0.906, down=True), plots.nice(142)) == (0.5, 200)
    ticks = plots.nice_ticks(0.5, 200)
    assert [plots.short(tick) for tick in ticks] == ["0.5", "1", "2", "5", "10", "20", "50", "100", "200"]
    axis = plots.Axis(2, 255, 0, 150)
    assert axis(2) == 0 and axis(255) == pytest.approx(150)
    assert plots.apart([2, 19, 59, 150, 255], axis, 22) == [255, 59, 19, 2]


def test_a_worker_answers_and_an_error_has_its_last_line(tmp_path):
    script = tmp_path / "side.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(Path(worker.__file__).parent)!r}]; import worker\n"
        "maker = lambda key, size: (lambda: print('noise') or [[size]], {'flop': 5})\n"
        "worker.serve({'thing': maker}, lambda: {'software': '1'})"
    )
    with contextlib.closing(worker.Worker(sys.executable, script)) as side:
        made = side.ask(make="thing", key="a", size=3)
        assert (made["result"], made["flop"]) == ([[3.0]], 5) and side.ask(run="a")["seconds"] > 0
        assert side.ask(about=True) == {"software": "1"}
        with pytest.raises(OSError, match="KeyError: 'other'"):
            side.ask(run="other")


@pytest.mark.parametrize("arguments", [["speed"], ["network", "--rows", "deeplabv3_r99"]])
def test_unknown_names_are_refused(arguments):
    with pytest.raises(ValueError, match="speed|No row is named"):
        compare.main(arguments)


def test_a_title_names_the_backbone():
    titles = [compare.title(f"deeplabv3plus_{backbone}_cityscapes") for backbone in ("r50", "mobilenetv2", "s101")]
    assert titles == ["V3+ R-50", "V3+ mobilenetv2", "V3+ s101"]
