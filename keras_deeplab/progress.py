"""A line on standard error that says how far a long task is. On a terminal it is written over; elsewhere it comes seldom."""

import collections
import sys
import time

RATE_OF = 50  # latest pictures whose rate is shown
SHOWN_EVERY = 0.2, 30  # seconds, on a terminal and elsewhere


class Progress:
    """Such as "12/2000 pictures, 3.1 a second, 10:41 to go, 1 failed". A context, whose end writes the line a last time.

    Args:
        total: the number of pictures, or None if it is not known.
        done: how many were done before.
        shown: whether to show anything.
        before: text before the numbers.
        noun: what is counted.
    """

    def __init__(self, total, done=0, shown=True, before="", noun="pictures"):
        shown = shown and sys.stderr is not None  # it is None if the caller has closed it
        self.total, self.done, self.failed, self.shown = total, done, 0, shown
        self.before, self.noun, self.note = before, noun, ""
        self.is_terminal = shown and sys.stderr.isatty()
        self.times = collections.deque(maxlen=RATE_OF + 1)
        self.printed = 0.0

    def __enter__(self):
        self.times.append(time.monotonic())
        self.printed = self.times[0]
        return self

    def __exit__(self, *_):
        if self.shown:
            self._write(end="\n")

    def add(self, failed=False, note=""):
        """Counts a picture. `note` is the latest news, which the line ends with."""
        self.done += 1
        self.failed += failed
        self.note = note
        self.times.append(time.monotonic())
        if self.shown and self.times[-1] - self.printed >= SHOWN_EVERY[not self.is_terminal]:
            self.printed = self.times[-1]
            self._write(end="" if self.is_terminal else "\n")

    def _write(self, end):
        text = f"\r{self.line()}\x1b[K" if self.is_terminal else self.line()
        print(text, end=end, file=sys.stderr, flush=True)

    def line(self):
        """The line as it is now."""
        of_total = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.before}{self.done}{of_total} {self.noun}"]
        seconds = self.times[-1] - self.times[0]
        if len(self.times) > 1 and seconds > 0:
            rate = (len(self.times) - 1) / seconds
            parts.append(f"{rate:.3g} a second")
            if (left := (self.total or 0) - self.done) > 0:
                parts.append(f"{clock(left / rate)} to go")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)


def clock(seconds):
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
