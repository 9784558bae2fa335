"""The line about a long task: its numbers, seldom where nobody can write over it, over itself on a terminal, or not at all."""

import sys
import time

import numpy as np

from keras_deeplab.progress import Progress, clock


def shown(capsys, monkeypatch, terminal=False, **options):
    """What 200 pictures of a quarter of a second print."""
    now = iter(np.arange(0, 1000, 0.25))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with Progress(total=2000, done=100, **options) as bar:
        for i in range(200):
            bar.add(failed=i == 7, note=f"mIoU {i}")
    printed = capsys.readouterr()
    assert not printed.out
    return printed.err


def test_it_says_rate_time_to_go_and_news_every_half_minute_in_a_file(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, before="a.mp4: ", noun="frames").splitlines()
    assert len(lines) == 2 and lines[-1] == "a.mp4: 300/2000 frames, 4 a second, 7:05 to go, 1 failed, mIoU 199"
    assert clock(3725.4) == "1:02:05"


def test_it_is_written_over_on_a_terminal(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, terminal=True)
    assert text.count("\r") == 201 and text.count("\n") == 1 and text.endswith("mIoU 199\x1b[K\n")


def test_it_can_be_left_out(capsys, monkeypatch):
    assert shown(capsys, monkeypatch, shown=False) == ""


def test_without_a_standard_error_nothing_is_shown(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)  # as Python has it if the caller has closed it
    with Progress(2) as bar:
        bar.add()
    assert bar.done == 1 and not bar.shown
