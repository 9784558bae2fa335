"""A real Triton server with the files of docs/triton.md gives the labels of `segment`.

It runs where the environment variable TRITON_PYTHON names the Python of an environment with `nvidia-pytriton` and TensorFlow.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import textwrap
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import GOLDEN, ROOT, SUPPORT
from support.drawn import picture

import keras_deeplab as kd

PYTHON = os.environ.get("TRITON_PYTHON")
BAD = {"empty.jpg": b"", "text.png": b"no picture", "short.png": (GOLDEN / "pictures" / "rgba.png").read_bytes()[:200]}


def block(language, words):
    """The block of the page that has these words."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "triton.md").read_text(), re.S)
    return textwrap.dedent(next(block for block in blocks if words in block)).lstrip()


def free_ports(count):
    with_ports = [socket.create_server(("localhost", 0)) for _ in range(count)]
    numbers = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return numbers


@pytest.fixture(scope="module")
def server():
    """The folder of the server in TRITON_PYTHON's environment."""
    if not PYTHON:
        pytest.skip("needs TRITON_PYTHON, a Python with nvidia-pytriton and tensorflow")
    program = "import importlib.util as u; print(u.find_spec('pytriton').submodule_search_locations[0])"
    done = subprocess.run([PYTHON, "-c", program], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip()) / "tritonserver"


@contextmanager
def running(server, repository, http, grpc):
    """A server that is ready, with the backends beside its repository; the block ends it as `docker stop` does."""
    backends = repository.parent / "backends"
    line = [server / "bin" / "tritonserver", "--model-repository", repository, "--backend-directory", backends,
            "--http-port", http, "--grpc-port", grpc, "--allow-metrics", "false"]  # fmt: skip
    environment = {  # as an active environment; the copied backends need the server's libraries named
        **os.environ,
        "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(server.parents[1] / "nvidia_pytriton.libs"),
    }
    with open(repository.parent / "log", "w") as log:
        process = subprocess.Popen([*map(str, line)], env=environment, stdout=log, stderr=log)
    try:
        wait_until_ready(process, http, repository.parent / "log")
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (repository.parent / "log").read_text()[-2000:]
    finally:
        process.kill()


def wait_until_ready(process, port, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return urllib.request.urlopen(f"http://localhost:{port}/v2/models/deeplab/ready")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.mark.slow
def test_label_maps_over_http_and_grpc_are_those_of_segment(models, server, tmp_path):
    repository, files = tmp_path / "triton", tmp_path / "files"
    kd.export_saved_model(models["whole"], repository / "deeplab" / "1" / "saved_model", max_pixels=20_000)
    (repository / "deeplab" / "config.pbtxt").write_text(block("protobuf", "backend"))
    (repository / "deeplab" / "1" / "model.py").write_text(block("python", "TritonPythonModel"))
    backends = tmp_path / "backends"
    shutil.copytree(server / "backends", backends)
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    assert program in block("sh", "tritonserver")
    version = subprocess.run([PYTHON, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    files.mkdir()
    for name, data in BAD.items():
        (files / name).write_bytes(data)
    for name in ("subsampled.jpg", "orientation6.jpg", "palette.png", "progressive.jpg"):
        shutil.copy(GOLDEN / "pictures" / name, files)
    Image.fromarray(picture(97, 65, seed=1)).save(files / "blocks.png")
    Image.fromarray(picture(201, 100, seed=1)).save(files / "large.png")
    http, grpc = free_ports(2)
    for run in ("first", "second"):  # the server is restarted between them, with the same ports
        (tmp_path / run).mkdir()
        with running(server, repository, http, grpc):
            found = subprocess.run(
                [PYTHON, SUPPORT / "triton_client.py", str(http), str(grpc), files, tmp_path / run],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            report = json.loads(found.stdout)
            assert report["equal of forty"] == 40
            refused = {f"{kind} {name}" for kind in ("http", "grpc") for name in (*BAD, "large.png")}
            assert set(report["refused"]) == refused
            assert "at most 20000 pixels" in report["refused"]["grpc large.png"]
            assert "JPEG or PNG file. Received: no bytes" in report["refused"]["http empty.jpg"]
            client = block("python", "tritonclient").replace("localhost:8000", f"localhost:{http}")
            shutil.copy(files / "subsampled.jpg", tmp_path / run / "street.jpg")
            subprocess.run([PYTHON, "-c", client], check=True, cwd=tmp_path / run)
        for path in files.iterdir():
            if path.name not in (*BAD, "large.png"):
                for kind in ("http", "grpc"):
                    answer = np.asarray(Image.open(tmp_path / run / f"{kind}_{path.name}.png"))
                    assert np.array_equal(answer, kd.segment(models["whole"], path)), (run, kind, path.name)
        one = np.asarray(Image.open(tmp_path / run / "labels.png"))
        assert np.array_equal(one, kd.segment(models["whole"], files / "subsampled.jpg"))
