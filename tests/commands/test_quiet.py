"""Commands print nothing of TensorFlow's log, whatever else is printed stays, and the user's own setting is kept."""

import os
import subprocess
import sys

import pytest
from support import ROOT

from keras_deeplab.commands import quiet

LOG = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795646051.747146   24003 port.cc:153] oneDNN custom operations are on. You may see different results.
E0000 00:00:1758131045.203198 3722035 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register
W0000 00:00:1758131045.228123 3722035 computation_placer.cc:177] computation placer already registered.
2025-09-17 14:44:05.176998: E external/local_xla/cuda_fft.cc:467] Unable to register cuFFT factory
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.
"""
OTHERS = """\
error: There is no folder 'x'.
F0000 00:00:1758131045.228123 3722035 cpu_feature_guard.cc:34] The TensorFlow library needs AVX instructions.
Traceback (most recent call last):
WARNING: All is lost
"""
IMPORT = """
import os, sys
sys.argv[0] = "keras-deeplab"
import keras_deeplab
os.write(2, b"before\\n")
import tensorflow
os.write(2, b"after\\n")
assert tensorflow.__spec__.loader and "filtered" not in sys.stderr.name
"""


def test_lines_of_a_log_are_left_out_and_all_others_stay():
    mixed = "".join(log + other for log, other in zip(LOG.splitlines(True), 2 * OTHERS.splitlines(True), strict=False))
    done = subprocess.run([sys.executable, "-c", quiet.FILTER], input=mixed, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.splitlines() == (2 * OTHERS.splitlines())[: len(LOG.splitlines())]


def test_a_failing_import_is_shown(capfd):
    with pytest.raises(ImportError), quiet.filtered_stderr():
        os.write(2, (LOG + OTHERS).encode())
        raise ImportError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == OTHERS + "after\n"


def test_a_process_that_aborts_still_says_why(tmp_path):
    program = "import os\nfrom keras_deeplab.commands import quiet\nwith quiet.filtered_stderr():\n"
    program += f"    os.write(2, {(LOG + OTHERS).encode()!r})\n    os.abort()"
    program = "import sys; sys.argv[0] = 'keras-deeplab'\n" + program  # imports no TensorFlow
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode < 0 and done.stderr == OTHERS


@pytest.mark.parametrize("level", [None, "0"])
def test_tensorflow_is_imported_quietly_unless_the_user_wants_its_log(level):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stderr == "before\nafter\n") == (level is None)


def test_a_warning_takes_one_line():
    assert quiet.one_line("one\n  two", UserWarning, "x.py", 3) == "warning: one two\n"
