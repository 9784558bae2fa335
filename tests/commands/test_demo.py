"""`keras-deeplab demo`: the answers of its page over HTTP, what it refuses, and the page in a browser."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from html import unescape

import numpy as np
import pytest
from PIL import Image
from support import GOLDEN
from support.drawn import picture
from support.narrow import build, drawn, tensors
from support.torch_files import released

import keras_deeplab as kd
from keras_deeplab.commands import command_line, demo

NAME = "deeplabv3plus_r18-d8_512x512_80k_loveda"
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra: demo")
pytest.importorskip("starlette", reason="needs the extra: demo")


def file_of(size, seed=0, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(picture(*size, seed)).save(file, kind, **options)
    return file.getvalue()


@contextmanager
def serving(app):
    """The address of an application that a thread serves."""
    page = demo.listening(0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [page]})
    thread.start()
    try:
        yield f"http://localhost:{page.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        page.close()


@pytest.fixture(scope="module")
def model():
    return drawn(NAME, protocol=kd.Protocol("whole"))


@pytest.fixture(scope="module")
def address(model):
    with pytest.MonkeyPatch.context() as patch, serving(demo.application(model, NAME)) as where:
        patch.setenv("KERAS_DEEPLAB_MAX_PIXELS", "20000")
        yield where


def ask(address, data, path="/labels", **headers):
    """(status, text) of the answer to a file that is sent."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers)) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_answer_is_what_segment_gives_of_the_upright_picture(address, model):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of((60, 80), kind="JPEG", exif=exif)
    status, text = ask(address, data)
    answer, labels = json.loads(text), kd.segment(model, data)
    assert status == 200 and labels.shape == (80, 60)
    assert np.array_equal(decoded(answer["labels"]), labels)
    assert decoded(answer["picture"]).size == (60, 80) and decoded(answer["overlay"]).width == 60
    largest = np.bincount(labels.ravel()).argmax()
    share = 100 * np.mean(labels == largest)
    colour = ", ".join(map(str, model.palette[largest]))
    assert answer["legend"][0] == [f"rgb({colour})", f"{model.classes[largest].strip()} {share:.1f}%"]


@pytest.mark.parametrize("data, message", [
    (b"no picture", "The picture "),
    (file_of((60, 80))[:900], "The picture is damaged"),
    (b"", "The picture "),
    (file_of((200, 101)), "has 101x200 = 20200 pixels, more than 20000"),
    ((GOLDEN / "pictures" / "cmyk.jpg").read_bytes(), "The picture is CMYK"),
    (b"x" * (demo.MAX_BYTES + 1), "at most 64 MiB"),
])  # fmt: skip
def test_a_picture_that_is_refused_gives_one_line_and_the_next_is_answered(address, data, message):
    status, text = ask(address, data)
    assert status == 400 and message in text and "\n" not in text
    assert ask(address, file_of((20, 30)))[0] == 200


def test_other_sites_and_other_paths_get_nothing(address):
    assert ask(address, b"", Host="example.com")[0] == 400
    assert ask(address, None, "/labels")[0] == 405 and ask(address, None, "/x")[0] == 404


def test_a_client_that_leaves_is_no_error(address, capfd):
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
        client.sendall(b"POST /labels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    assert ask(address, file_of((20, 30)))[0] == 200 and "Traceback" not in capfd.readouterr().err


def test_the_page_names_the_model_and_loads_nothing_from_elsewhere(address):
    status, page = ask(address, None, "/")
    assert status == 200 and f"<h1>{NAME}</h1>" in page and "one of 7 classes" in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert not re.search(r"https?:|@import|url\(", page)


def test_mistakes_are_refused_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "load", lambda *_, **__: pytest.fail("loaded"))
    with demo.listening(0) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"The port must be free .* Received: {number}, which is not. .* --port 0"):
            demo.main([NAME, "--port", str(number)])
    for wrong in ("65536", "-1", "http"):
        with pytest.raises(SystemExit):
            demo.main([NAME, f"--port={wrong}"])
        assert "must be a number of 0..65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r'pip install "keras_deeplab\[demo\]"'):
        demo.main([NAME])


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

# A script for the page, which drops a file as a person does and writes what it sees into the page.
SCRIPT = """
<script>
async function until(condition) { while (!condition()) await new Promise(done => setTimeout(done, 50)); }
addEventListener("load", async () => {
  const bytes = Uint8Array.from(atob("PICTURE"), c => c.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "street.png"));
  dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
  await until(() => get("state").textContent.includes("seconds") && get("labels").complete);
  const seen = { legend: get("legend").innerText.trim().split(/\\n+/), half: getComputedStyle(get("labels")).opacity };
  get("mix").value = 100;
  get("mix").dispatchEvent(new Event("input"));
  const canvas = new OffscreenCanvas(get("labels").naturalWidth, get("labels").naturalHeight).getContext("2d");
  canvas.drawImage(get("labels"), 0, 0);
  Object.assign(seen, { all: getComputedStyle(get("labels")).opacity, width: document.documentElement.scrollWidth,
    stage: get("picture").getBoundingClientRect().width - get("labels").getBoundingClientRect().width,
    corner: [...canvas.getImageData(0, 0, 1, 1).data], saves: [get("save-labels").download, get("save-overlay").download] });
  const broken = new DataTransfer();
  broken.items.add(new File(["nothing"], "x.png"));
  dispatchEvent(new DragEvent("drop", { dataTransfer: broken }));
  await until(() => get("state").className === "error");
  seen.error = get("state").textContent;
  const result = Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen), hidden: true });
  document.body.append(result);
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_shows_the_labels_and_the_legend(model, tmp_path, monkeypatch):
    data = file_of((60, 80))
    labels = kd.segment(model, data)
    script = SCRIPT.replace("PICTURE", base64.b64encode(data).decode())
    monkeypatch.setattr(demo, "PAGE", demo.PAGE.replace("</body>", script + "</body>"))
    with serving(demo.application(model, NAME)) as address:
        done = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--virtual-time-budget=60000",
             f"--user-data-dir={tmp_path}", "--dump-dom", address],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    found = re.search(r'<pre id="seen"[^>]*>(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    seen = json.loads(unescape(found[1]))
    assert (seen["half"], seen["all"], seen["stage"]) == ("0.5", "1", 0) and seen["width"] <= 500
    assert seen["saves"] == ["street.png", "street_overlay.jpg"] and seen["error"].startswith("The picture ")
    assert seen["corner"] == [*model.palette[labels[0, 0]], 255]
    largest = np.bincount(labels.ravel()).argmax()
    assert seen["legend"][0] == f"{model.classes[largest].strip()} {100 * np.mean(labels == largest):.1f}%"


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(tmp_path):
    (tmp_path / "narrow.pth").write_bytes(released(tensors(build(NAME, auxiliary_head=True))))
    line = [
        sys.executable,
        "-m",
        "keras_deeplab",
        "demo",
        NAME,
        "--weights",
        str(tmp_path / "narrow.pth"),
        "--port",
        "0",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_DEEPLAB_MAX_PIXELS"}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[0]
        assert f"<h1>narrow.pth, a {NAME}</h1>" in ask(address, None, "/")[1]
        answer = json.loads(ask(address, file_of((60, 80)))[1])
        assert np.array_equal(decoded(answer["labels"]), kd.segment(drawn(NAME), file_of((60, 80))))
        large = io.BytesIO()
        Image.new("1", (5000, 5000)).save(large, "PNG")
        assert "5000x5000 = 25000000 pixels, more than 16777216" in ask(address, large.getvalue())[1]
        process.send_signal(signal.SIGINT)
        since = time.monotonic()
        assert process.wait(30) == 1 and time.monotonic() - since < 15
        assert process.stderr.read().strip() == "stopped"
    finally:
        process.kill()
