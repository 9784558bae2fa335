"""Commands without TensorFlow's log: what it prints while it is imported is filtered, and a Python warning takes one line.

TensorFlow logs nothing below TF_CPP_MIN_LOG_LEVEL once it runs. While it is imported it ignores that variable: it prints a
banner twice, and on some machines lines marked E about CUDA factories although all is well (tensorflow issue 100442).
A value of TF_CPP_MIN_LOG_LEVEL that the user has set is kept, and with any but 3 nothing is filtered.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import warnings

# A program that copies lines, except for those of TensorFlow's log. The line of a fatal error, marked F, is copied. It is a
# process of its own so that such a line is still printed when TensorFlow has ended ours.
FILTER = r"""
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
logged = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|To enable the following instructions:"
    rb"|[IWE]\d{4} [\d:.]+ +\d+ \S+:\d+\] |\d{4}-\d\d-\d\d [\d:.]+: [IWE] \S+:\d+\] "
)
for line in sys.stdin.buffer:
    if not logged.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


VARIABLE = "KERAS_DEEPLAB_QUIET"  # set for the processes that a command starts, such as those that convert pictures


def install():
    """Makes this process and its children quiet. Call it before TensorFlow is imported."""
    os.environ[VARIABLE] = "1"
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3" and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, TensorFlowFinder)
    warnings.formatwarning = one_line


def one_line(message, category, filename, lineno, line=None):
    """A warning as text, in place of Python's `warnings.formatwarning`."""
    return f"warning: {' '.join(str(message).split())}\n"


class TensorFlowFinder:
    """Finds TensorFlow as Python does, and lets it be imported inside `filtered_stderr`."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(TensorFlowFinder)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                with filtered_stderr():
                    execute(module)

            spec.loader.exec_module = exec_module
        return spec


@contextlib.contextmanager
def filtered_stderr():
    """What is written to the error output inside the block, also by C++, is printed without the lines of a log."""
    try:
        sys.stderr.flush()
        original = os.dup(2)
    except (AttributeError, OSError, ValueError):  # this process has no error output
        yield
        return
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", FILTER], stdin=subprocess.PIPE)
    try:
        os.dup2(child.stdin.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
        child.stdin.close()
        child.wait()
