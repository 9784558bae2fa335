"""Files are written whole; a lock says who holds it, and one left by a killed process is taken over."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from keras_deeplab.files import InUseError, locked, remove_temporary_files, written_whole

HOLD = "import sys, time; from keras_deeplab.files import locked\nwith locked(sys.argv[1], 'is training into run'):\n"
HOLD += "    print('held', flush=True); time.sleep(600)"


def holder(path):
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "a.keras"
    path.write_text("old")
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.suffix == ".keras" and str(os.getpid()) in temporary.name
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    for name in ("a.part123.keras", "a.part9.keras", "a.keras", "a.partial.keras", "b.part1.keras"):
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path / "a.keras")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "a.partial.keras", "b.part1.keras"]


def test_the_holder_of_a_lock_is_named(tmp_path):
    process = holder(tmp_path / "run" / "lock")
    try:
        with pytest.raises(
            InUseError, match=rf"Process {process.pid} is training into run since 20.* Wait until it ends"
        ):
            with locked(tmp_path / "run" / "lock", "is exporting"):
                pass
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "run" / "lock").exists()  # it was killed
    with locked(tmp_path / "run" / "lock", "is exporting"):
        pass
    assert not (tmp_path / "run" / "lock").exists()


def test_one_process_cannot_hold_a_lock_twice(tmp_path):
    with locked(tmp_path / "lock", "is training"):
        with pytest.raises(InUseError, match=f"Process {os.getpid()} is training since"):
            with locked(tmp_path / "lock", "is training"):
                pass
    with locked(tmp_path / "lock", "is training"):
        pass


def test_a_stopped_process_frees_its_lock(tmp_path):
    process = holder(tmp_path / "lock")
    process.send_signal(signal.SIGTERM)
    process.wait()
    with locked(tmp_path / "lock", "is training"):
        pass


class FromTensorFlow(Exception):
    """Stands for TensorFlow's ResourceExhaustedError, whose text alone tells what happened."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(f"Can't synchronously write data (errno = 28, error message = '{os.strerror(errno.ENOSPC)}')"),  # HDF5
        FromTensorFlow(f"/x/.m.new/saved_model.pb.tmp1; {os.strerror(errno.ENOSPC)}"),
    ],
)
def test_the_error_of_a_full_disk_names_the_folder(tmp_path, error):
    with pytest.raises(OSError) as raised, locked(tmp_path / "run" / "lock", "is training"):
        raise error
    assert raised.value.errno in (errno.ENOSPC, errno.EDQUOT) and raised.value.filename == str(tmp_path / "run")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full", "a.png"), OSError("other"), FromTensorFlow("other")])
def test_other_errors_pass_a_lock_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as raised, locked(tmp_path / "lock", "is training"):
        raise error
    assert raised.value is error
