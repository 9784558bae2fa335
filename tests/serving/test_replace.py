"""A kill at any step of an export leaves the old or the new model, and the next export tidies up; two exports do not mix."""

import subprocess
import sys

import pytest
from support import ROOT
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab.commands import export
from keras_deeplab.files import InUseError
from keras_deeplab.serving import replace, repository

# A program with the argument: a folder. For each pair of steps it runs an export of two files that is killed at the first
# step, then one that is killed at the second, then one that is not. It prints the number of states that it has seen.
KILLS = """
import itertools, os, sys
sys.argv[0] = "keras-deeplab"  # imports no TensorFlow
from pathlib import Path
from keras_deeplab.serving.replace import folder_in_place_of
root = Path(sys.argv[1])

def export(path, text, last_step):
    "In a process that ends at that of its changes of the file system. Returns whether it was killed."
    if (child := os.fork()) == 0:
        steps = itertools.count()
        def killing(function):
            def changed(*args, **options):
                if next(steps) == last_step:
                    os._exit(9)
                return function(*args, **options)
            return changed
        for name in ("rename", "replace", "mkdir", "unlink", "rmdir"):
            setattr(os, name, killing(getattr(os, name)))
        write(path, text)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0

def write(path, text):
    with folder_in_place_of(path) as new:
        content(path, none=text is None)
        (new / "first").write_text(text)
        os.mkdir(new / "inside")
        (new / "inside" / "second").write_text(text)

def content(path, none=False):
    "The text of both files, which must be of the same export; None where there is no folder."
    if none or not path.exists():
        return None
    first, second = (path / "first").read_text(), (path / "inside" / "second").read_text()
    assert first == second, (path, first, second)
    return first

seen = set()
for one in range(40):
    for other in range(40):
        path = root / f"{one}-{other}" / "model"
        write(path, "old")
        killed = export(path, "new", one)
        state = content(path)
        hidden = {p.name for p in path.parent.iterdir()}
        assert state in ("old", "new") or ".model.old" in hidden and ".model.new" in hidden, (one, state, hidden)
        seen.add((state, *sorted(hidden)))
        killed_again = export(path, "newer", other)
        assert content(path) in ("old", "new", "newer", None), other
        with folder_in_place_of(path) as new:
            assert content(path) in ("old", "new", "newer"), (one, other)
            (new / "first").write_text("last"), (new / "inside").mkdir(), (new / "inside" / "second").write_text("last")
        assert content(path) == "last" and [p.name for p in path.parent.iterdir()] == ["model"], (one, other)
        if not killed_again:
            break
    if not killed:
        break
assert not killed and not killed_again
print(len(seen))
"""


def test_a_kill_at_any_two_steps_leaves_a_whole_folder_for_the_next_export(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5


def test_an_export_that_fails_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("old")
    with pytest.raises(ValueError, match="the labels differ"), replace.folder_in_place_of(tmp_path / "model") as new:
        (new / "saved_model.pb").write_text("new")
        raise ValueError("the labels differ")
    assert (tmp_path / "model" / "saved_model.pb").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_where_a_file_system_is_mounted_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(replace.os.path, "ismount", lambda path: True)
    with pytest.raises(ValueError, match="mounted cannot be renamed. Received: .* Name a folder inside it"):
        with replace.folder_in_place_of(tmp_path / "model"):
            pass


def test_a_file_never_lies_beside_the_metadata_of_another(monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    def end(*paths):
        raise Killed

    path, description = tmp_path / "model.tflite", tmp_path / "model.json"
    replace.write_with_metadata(path, b"old", {"model": "old"})
    with monkeypatch.context() as patch:
        patch.setattr("keras_deeplab.files.os.replace", end)
        with pytest.raises(Killed):
            replace.write_with_metadata(path, b"new", {"model": "new"})
    assert path.read_bytes() == b"old" and not description.exists()
    (tmp_path / "model.part123.json").touch()  # of a killed process
    with replace.exporting_file(path):
        replace.write_with_metadata(path, b"new", {"model": "new"})
    assert path.read_bytes() == b"new" and "new" in description.read_text() and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="must not end in .json"), replace.exporting_file(description):
        pass


def test_a_second_export_to_the_same_place_is_refused(models, tmp_path):
    model = models["whole"]
    with replace.exporting(tmp_path / "served"), pytest.raises(InUseError, match="is exporting to .*served since"):
        kd.export_saved_model(model, tmp_path / "served")
    with replace.exporting(tmp_path / "x.tflite"), pytest.raises(InUseError, match="is exporting to .*x.tflite since"):
        kd.export_litert(model, tmp_path / "x.tflite")
    with repository.new_version(tmp_path, "land") as path, pytest.raises(InUseError, match="is exporting to .*land"):
        assert path == tmp_path / "land" / "1"
        with repository.new_version(tmp_path, "land"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_saved_model_with_other_labels_than_segment_takes_nobodys_place(monkeypatch, models, tmp_path):
    def refuse(*args, **options):
        raise ValueError("The SavedModel's labels must equal those of `segment`.")

    monkeypatch.setattr("keras_deeplab.serving.verify.require_same_labels", refuse)
    models["whole"].save(tmp_path / "model.keras")
    arguments = [models["whole"].row, "--weights", str(tmp_path / "model.keras"), "--to", str(tmp_path / "models")]
    with pytest.raises(ValueError, match="must equal"):
        export.main([*arguments, "--name", "land"])
    assert (
        not repository.versions(tmp_path / "models" / "land") and not (tmp_path / "models" / "models.config").exists()
    )


@pytest.mark.slow
def test_a_real_export_killed_with_9_leaves_the_model_that_was_there(tmp_path):
    drawn("deeplabv3plus_r18-d8_512x512_80k_loveda", protocol=kd.Protocol("whole", resize=(128, 96))).save(
        tmp_path / "model.keras"
    )
    command = [sys.executable, "-m", "keras_deeplab", "export", "deeplabv3plus_r18-d8_512x512_80k_loveda"]
    command += ["--weights", str(tmp_path / "model.keras"), "--to", str(tmp_path / "served")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    before = (tmp_path / "served" / "saved_model.pb").read_bytes()
    for _ in range(2):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (tmp_path / ".served.new").exists():
            assert process.poll() is None
        process.kill()
        process.wait()
        assert (tmp_path / "served" / "saved_model.pb").read_bytes() == before
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "served"}
