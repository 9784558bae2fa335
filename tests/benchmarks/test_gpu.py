"""The benchmark on a GPU, with stand-ins for its workers: no GPU is needed."""

import json

import pytest

from benchmarks import gpu
from benchmarks.worker import WorkerEnded

LINE = "forward:deeplabv3plus_r50-d8_512x1024_80k_cityscapes:float32"
SECONDS = {"ours": 0.2, "untuned": 0.3, "eager": 0.8, "compiled": 0.4}


class StandIn:
    """A worker whose passes take the seconds of its side; "untuned" ends while it compiles."""

    def __init__(self, python, script, environment):
        self.side = "untuned" if "XLA_FLAGS" in environment else "ours" if "ours" in script else None

    def ask(self, **question):
        if "about" in question:
            return {"device": "none", "memory": 3 * 2**20}
        if "run" in question:
            return {"seconds": SECONDS[self.side]}
        self.side = self.side or ("compiled" if question["compiled"] else "eager")
        if self.side == "untuned":
            raise WorkerEnded("the worker ended")
        return {"result": [[1.0, 3.0 + (self.side == "eager")]]}

    def close(self):
        pass


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    def once(*arguments):
        monkeypatch.setattr(gpu, "Worker", StandIn)
        monkeypatch.setattr(gpu, "WorkerEnded", WorkerEnded)
        gpu.main([*arguments, "--json", str(tmp_path / "gpu.json")])
        return capsys.readouterr().out, json.loads((tmp_path / "gpu.json").read_text())

    return once


def test_the_table_has_the_ratio_to_our_side_and_the_difference_of_the_results(run):
    printed, (measured,) = run(LINE, "--turns", "3", "--batch", "forward=4")
    assert "the worker ended" in printed
    assert f"{LINE}, batch 4: ours 20.00 (20.00) ms, 3 MiB" in printed
    assert "eager / ours 4.00, results differ by 6.7e-01" in printed  # 1 over the deviation of 1 and 4
    assert "compiled / ours 2.00, results differ by 0.0e+00" in printed
    assert [(side["side"], len(side["seconds"])) for side in measured["sides"]] == [
        ("ours", 3),
        ("eager", 3),
        ("compiled", 3),
    ]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nonsense"], "must be forward|step:ROW:float32|bfloat16|exact. Received: 'nonsense'"),
        (["forward:row:float16"], "Received: 'forward:row:float16'"),
        (["--batch", "step"], "must be forward|step=N, N 1 or more. Received: 'step'"),
        (["--batch", "step=0"], "Received: 'step=0'"),
        (["--together", "0"], "must be 1 or more. Received: '0'"),
        (["--turns", "-1"], "must be 1 or more. Received: '-1'"),
        (["--sides", "theirs"], "invalid choice: 'theirs'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit):
        gpu.main(arguments)
    assert words in capsys.readouterr().err
