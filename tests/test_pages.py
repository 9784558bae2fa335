"""Every Python block of the README and of docs/ runs, in a folder with the files that it names; released files are narrow."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import ROOT, miniatures, videos
from support.cache import release
from support.drawn import picture
from support.narrow import drawn

import keras_deeplab as kd

pytestmark = pytest.mark.filterwarnings("ignore:.*the classifiers start from random weights")


def blocks_of(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


def run(page, **names):
    """The names that a page's Python blocks leave, run one after another."""
    names["__name__"] = "__main__"
    for block in blocks_of(page):
        exec(block, names)
    return names


def write_pairs(folder, count, classes, size=(60, 80)):
    """Pictures and label maps in folder/images and folder/labels."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        image = picture(*size, seed=i)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray((image[..., 0] // -(-256 // classes)).astype("uint8")).save(folder / "labels" / f"{i}.png")


def test_every_page_with_python_is_run_here():
    pages = {str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
    tested = {
        "README.md",
        *(f"docs/{name}.md" for name in ("models", "training", "data", "evaluation", "datasets", "serving")),
        *(f"docs/{name}.md" for name in ("scale", "beam", "video", "mosaics")),
        "docs/triton.md",  # by tests/serving/test_triton.py
    }
    assert {page for page in pages if blocks_of(page)} == tested


@pytest.fixture
def cityscapes(here):
    """Narrow released files, and street.jpg."""
    newest = release(here, "r101_cityscapes", "r50_cityscapes", class_name="DeepLabV3Plus")
    (here / "work_dirs").mkdir()
    shutil.copy(newest, here / "work_dirs" / "iter_80000.pth")
    Image.fromarray(picture(60, 80, seed=0)).save(here / "street.jpg")


def test_the_readme(cityscapes):
    assert run("README.md")["labels"].shape == (60, 80)
    assert Path("saved_model", "saved_model.pb").exists() and Path("street_overlay.png").exists()


@pytest.mark.slow
def test_the_models_page(cityscapes):
    names = run("docs/models.md")
    assert names["labels"].shape == (60, 80) and names["logits"].shape == (1, 65, 97, 19)
    assert names["scores"].shape == (60, 80, 19) and Path("street_labels.png").exists()
    assert names["model"].get_config()["output_stride"] == 16


def test_the_training_page(here):
    newest = release(here, "r50_cityscapes", class_name="DeepLabV3Plus")
    (here / "work_dirs").mkdir()
    shutil.copy(newest, here / "work_dirs" / "iter_80000.pth")
    write_pairs(here, 4, classes=3)
    assert int(run("docs/training.md")["model"].optimizer.iterations) == 2


def test_the_data_page(here, capsys):
    write_pairs(here / "mydata", 7, classes=3, size=(48, 64))
    names = run("docs/data.md")
    assert names["images"].shape == (4, 512, 1024, 3) and names["labels"].dtype == tf.uint8
    assert capsys.readouterr().out.count("(48, 64, 3) (48, 64)") == 7


def test_the_evaluation_page(here):
    release(here, "r18_loveda", class_name="DeepLabV3Plus")
    write_pairs(here, 3, classes=7)
    names, page = run("docs/evaluation.md"), (ROOT / "docs" / "evaluation.md").read_text()
    assert names["found"]["images"] == 3
    assert names["metric"].counts().tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    scores = {name: round(100 * float(value), 2) for name, value in names["metric"].means().items()}
    assert scores == {"mIoU": 41.67, "mAcc": 58.33, "mDice": 58.33, "mFscore": 58.33, "aAcc": 60.0}
    assert all(f"{name} = {scores[name]:.2f} %" in page for name in ("mIoU", "mAcc", "mDice"))


def test_the_scale_page(here):
    release(here, "r18_loveda", class_name="DeepLabV3Plus")
    (here / "photos").mkdir()
    for i in range(2):
        Image.fromarray(picture(60, 80, seed=i)).save(here / "photos" / f"{i}.png")
    shutil.copy(here / "photos" / "0.png", here / "street.jpg")
    names = run("docs/scale.md")
    assert (names["made"], names["skipped"], names["failed"]) == (2, 0, [])
    assert Path("labels", "1.png").exists() and (names["path"], names["labels"].shape) == ("street.jpg", (60, 80))


def test_the_video_page(here):
    pytest.importorskip("av", reason="PyAV, the extra video, reads videos")
    release(here, "r18_loveda", class_name="DeepLabV3Plus")
    videos.write("clip.mp4", 2)
    names = run("docs/video.md")
    assert names["labels"].shape == (48, 64) and names["seconds"] == 1 / 25


def test_the_mosaics_page(here):
    rasterio = pytest.importorskip("rasterio", reason="needs the extra: rasterio")
    release(here, "r18_loveda", class_name="DeepLabV3Plus")
    Image.fromarray(picture(60, 80, seed=0)).save(here / "mosaic.tif")
    with rasterio.open(run("docs/mosaics.md")["path"]) as dataset:
        assert dataset.shape == (60, 80) and dataset.nodata == 255


@pytest.mark.slow
def test_the_beam_page(here, capsys):
    pytest.importorskip("apache_beam", reason="needs the extra: beam")
    release(here, "r18_loveda", class_name="DeepLabV3Plus")
    (here / "photos").mkdir()
    Image.fromarray(picture(60, 80, seed=0)).save(here / "photos" / "0.png")
    Image.fromarray(picture(60, 80, seed=1)).save(here / "street.jpg")
    names = run("docs/beam.md")
    assert (names["made"], names["skipped"], names["failed"]) == (1, 0, []) and Path("labels", "0.png").exists()
    assert capsys.readouterr().out.startswith("street.jpg ")


def test_the_datasets_page(here, monkeypatch):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra: datasets")
    pytest.importorskip("scipy", reason="needs the extra: datasets")
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # no processes of its own: those read the calling script again
    known = miniatures.draw("cityscapes", here / "downloads" / "cityscapes")
    names = run("docs/datasets.md")
    assert len(names["pairs"]) == len(known["train"])
    assert Image.open(names["picture"]).size == miniatures.SIZE[::-1] and names["first"]["name"]


@pytest.fixture
def served(here):
    """A SavedModel in models/deeplab/1, and street.jpg; gives the label map that `segment` makes of it."""
    model = drawn("deeplabv3plus_r18-d8_512x512_80k_loveda", protocol=kd.Protocol("whole"))
    kd.export_saved_model(model, here / "models" / "deeplab" / "1")
    Image.fromarray(picture(60, 80, seed=0)).save(here / "street.jpg")
    return kd.segment(model, "street.jpg")


def test_the_serving_pages_grpc_client(here, served):
    grpc = pytest.importorskip("grpc", reason="needs the extra: serving")
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    signatures = tf.saved_model.load("models/deeplab/1").signatures

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        """Answers as TensorFlow Serving does."""

        def Predict(self, request, context):
            signature = signatures[request.model_spec.signature_name or "serving_default"]
            inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
            response = predict_pb2.PredictResponse()
            for name, value in signature(**inputs).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        (client,) = blocks_of("docs/serving.md")
        exec(client.replace("localhost:8500", f"localhost:{port}"), {})
    finally:
        server.stop(None)
    assert np.array_equal(Image.open("labels.png"), served)


@pytest.mark.skipif(not shutil.which("curl"), reason="the page's command takes curl")
def test_the_serving_pages_rest_client(here, served):
    import base64
    import json

    rest = tf.saved_model.load("models/deeplab/1").signatures["rest"]

    class Handler(BaseHTTPRequestHandler):
        """Answers as TensorFlow Serving does: outputs whose names end in _bytes as base64."""

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/models/deeplab:predict" and request["signature_name"] == "rest"
            files = [base64.b64decode(instance["b64"]) for instance in request["instances"]]
            pngs = rest(image_bytes=tf.constant(files))["label_png_bytes"].numpy()
            answer = json.dumps({"predictions": [{"b64": base64.b64encode(png).decode()} for png in pngs]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    (client,) = [block for block in blocks_of("docs/serving.md", "") if "curl" in block]
    try:
        command = client.replace("localhost:8501", f"localhost:{server.server_port}")
        subprocess.run(["bash", "-c", command], check=True, cwd=here)
    finally:
        server.shutdown()
        server.server_close()
    assert np.array_equal(Image.open("labels.png"), served)
