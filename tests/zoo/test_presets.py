"""from_preset loads files from the cache, a user or the network, also with other classes or strides; it refuses wrong ones."""

import hashlib
import http.server
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from support.drawn import images
from support.narrow import build, drawn, tensors
from support.torch_files import Call, Global, released

import keras_deeplab as kd
from keras_deeplab.catalog import rows
from keras_deeplab.catalog.openmmlab import Row
from keras_deeplab.zoo import fetch

NAME = "deeplabv3plus_r18-d8_512x1024_80k_cityscapes"
ROW = rows.find(NAME)


@pytest.fixture(scope="module")
def weights():
    return tensors(build(NAME, auxiliary_head=True))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def cached(cache, weights):
    path = cache / ROW.file
    path.write_bytes(released(weights, CLASSES=("a", "b"), iter=80000))
    return path


def load(**options):
    return kd.DeepLabV3Plus.from_preset(NAME, **options)


def same_logits(model, other):
    return np.array_equal(model(images(33, 47)), other(images(33, 47)))


def test_a_released_file_in_the_cache_is_loaded(cached):
    model = load()
    assert same_logits(model, drawn(NAME))
    assert (model.row, model.classes, model.palette, model.protocol) == (NAME, ROW.classes, ROW.palette, ROW.protocol)


def test_short_names_load_the_best_row(cached):
    assert kd.DeepLabV3Plus.from_preset("r18_cityscapes").row == NAME
    assert kd.DeepLabV3Plus.from_preset("deeplabv3plus_r18_cityscapes").row == NAME


def test_the_auxiliary_head_comes_on_request(cached):
    outputs = load(auxiliary_head=True)(images(33, 47))
    expected = drawn(NAME, auxiliary_head=True)(images(33, 47))
    assert set(outputs) == {"logits", "auxiliary"}
    assert all(np.array_equal(outputs[key], expected[key]) for key in outputs)


def test_the_hash_is_recorded_at_first_use_and_checked_afterwards(cached):
    load()
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    assert (cached.parent / f"{cached.name}.sha256").read_text() == f"{digest}  {cached.name}\n"
    cached.write_bytes(cached.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match="changed since its first use") as error:
        load()
    assert digest in str(error.value)


def test_a_pinned_hash_is_checked(cached):
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    load(sha256=digest.upper())
    with pytest.raises(ValueError, match=f"SHA-256 of .* must be {'0' * 64}. Received: {digest}"):
        load(sha256="0" * 64)


def test_another_class_count_keeps_all_but_the_classifiers_and_says_so(cached):
    with pytest.warns(UserWarning, match="has 19 classes and the model 3: the classifiers start from random weights"):
        model = load(num_classes=3, auxiliary_head=True)
    reference = drawn(NAME, auxiliary_head=True)
    assert model.classes == ("class 0", "class 1", "class 2") and model.row is None
    for layer in model.layers:
        if layer.weights and not layer.name.endswith("conv_seg"):
            assert all(map(np.array_equal, layer.get_weights(), reference.get_layer(layer.name).get_weights()))
    assert model(images(33, 47))["logits"].shape == (1, 33, 47, 3)


@pytest.mark.parametrize("output_stride, rates", [(16, (1, 6, 12, 18)), (32, (1, 3, 6, 9))])
def test_a_coarser_output_stride_divides_the_rates(cached, output_stride, rates):
    model = load(output_stride=output_stride)
    assert model.get_config()["aspp_rates"] == rates
    features = keras.Model(model.input, model.get_layer("backbone-layer4-1-relu").output)(
        images(64, 96).astype("float32")
    )
    assert features.shape[1:3] == (64 // output_stride, 96 // output_stride)
    assert model(images(64, 96)).shape == (1, 64, 96, 19)


@pytest.mark.parametrize("output_stride", [0, 12, "16"])
def test_other_output_strides_are_refused(cached, output_stride):
    with pytest.raises(ValueError, match=f"output_stride must be 8, 16 or 32. Received: {output_stride!r}"):
        load(output_stride=output_stride)


def test_without_weights_the_network_is_random_and_needs_no_file(cache):
    model = load(load_weights=False, num_classes=4)
    assert model.num_classes == 4 and not list(cache.iterdir())
    with pytest.raises(ValueError, match="Leave one of the two out"):
        load(load_weights=False, weights="x.pth")


def test_a_users_own_run_brings_its_classes(tmp_path, weights):
    for leaf in ("weight", "bias"):
        for head in ("decode_head", "auxiliary_head"):
            weights = {**weights, f"{head}.conv_seg.{leaf}": weights[f"{head}.conv_seg.{leaf}"][:2]}
    path = tmp_path / "iter_80000.pth"
    path.write_bytes(
        released(weights, dataset_meta={"classes": ("crop", "weed"), "palette": [[0, 255, 0], [255, 0, 0]]})
    )
    model = load(weights=path)
    assert model.classes == ("crop", "weed") and model.palette == ((0, 255, 0), (255, 0, 0)) and model.row is None
    assert model(images(33, 47)).shape[-1] == 2


def test_foreign_metadata_is_ignored(tmp_path, weights):
    path = tmp_path / "iter_80000.pth"
    foreign = Call(Global("mmengine.dataset", "Meta"))
    path.write_bytes(released(weights, dataset_meta=foreign, CLASSES=foreign, PALETTE=foreign))
    model = load(weights=path)
    assert model.classes == ROW.classes and model.row == NAME


def test_a_keras_file_brings_its_own_protocol_and_classes(tmp_path):
    path = tmp_path / "mine.keras"
    protocol = kd.Protocol("whole", resize=(64, 32))
    own_model = drawn(NAME, classes=tuple("abcdefghijklmnopqrs"), protocol=protocol, row=None)
    own_model.save(path)
    model = load(weights=path)
    assert model.classes == own_model.classes and model.protocol == own_model.protocol
    assert same_logits(model, own_model)
    with pytest.warns(UserWarning, match="mine.keras has 19 classes and the model 5"):
        assert load(weights=path, num_classes=5)(images(33, 47)).shape[-1] == 5
    with pytest.warns(
        UserWarning, match="mine.keras has no auxiliary head: that of the model starts from random weights"
    ):
        with_auxiliary = load(weights=path, auxiliary_head=True)
    assert np.array_equal(with_auxiliary(images(33, 47))["logits"], own_model(images(33, 47)))
    assert np.std(with_auxiliary.get_layer("auxiliary_head-convs-0-conv").kernel) > 0.01
    with pytest.raises(ValueError, match="must hold a saved DeepLabV3. Received: .*DeepLabV3Plus"):
        kd.DeepLabV3.from_preset("r18_cityscapes", weights=path)


def test_a_file_of_another_network_is_named(cached):
    with pytest.raises(ValueError, match="must hold the network of deeplabv3plus_r50-d8_512x1024_80k_cityscapes"):
        kd.DeepLabV3Plus.from_preset("r50_cityscapes", weights=cached)
    with pytest.raises(ValueError, match="DeepLabV3 on r18. Received: DeepLabV3Plus on r18."):
        kd.DeepLabV3.from_preset("r18_cityscapes", weights=cached)


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    (tmp_path / "x.pth").write_bytes(released({"fc.weight": np.zeros((2, 2), "float32")}))
    with pytest.raises(ValueError, match="x.pth must hold weights of DeepLabV3 or DeepLabV3.* Received: fc.weight"):
        load(weights=tmp_path / "x.pth")


def test_imagenet_weights_fill_the_backbone_alone(cache, weights):
    backbone = {
        name.removeprefix("backbone."): array for name, array in weights.items() if name.startswith("backbone.")
    }
    classifier = {"fc.weight": np.zeros((10, 64), "float32"), "fc.bias": np.zeros(10, "float32")}
    (cache / "resnet18_v1c-b5776b93.pth").write_bytes(released({**backbone, **classifier}))
    model, reference = build(NAME), drawn(NAME)
    head = model.get_layer("decode_head-conv_seg").get_weights()
    kd.load_backbone(model, "resnet18_v1c")
    for layer in model.layers:
        if layer.name.startswith("backbone-") and layer.weights:
            assert all(map(np.array_equal, layer.get_weights(), reference.get_layer(layer.name).get_weights()))
    assert all(map(np.array_equal, head, model.get_layer("decode_head-conv_seg").get_weights()))
    with pytest.raises(ValueError, match="resnet18_v1c.* must be those of DeepLabV3Plus. Received: .* without a layer"):
        kd.load_backbone(build("deeplabv3plus_r18b_cityscapes"), "resnet18_v1c")


def test_imagenet_weights_of_a_mobilenet_are_found_under_the_names_of_its_classifier(cache):
    row = "deeplabv3plus_m-v2-d8_512x1024_80k_cityscapes"
    model, reference = build(row), drawn(row)
    file = {name: array for name, array in tensors(reference).items() if name.startswith("backbone.")}
    behind = ("backbone.conv2.conv.weight", "backbone.conv2.bn.weight", "head.fc.weight", "head.fc.bias")
    file |= {name: np.zeros(8, "float32") for name in behind}
    (cache / "mobilenet_v2_batch256_imagenet_20200708-3b2dc3af.pth").write_bytes(released(file))
    kd.load_backbone(model, "mobilenet_v2")
    for layer in model.layers:
        if layer.name.startswith("backbone-") and layer.weights:
            assert all(map(np.array_equal, layer.get_weights(), reference.get_layer(layer.name).get_weights()))


def test_presets_describe_every_row():
    presets = {**kd.DeepLabV3.presets, **kd.DeepLabV3Plus.presets}
    assert set(presets) == set(rows.ROWS)
    assert presets[NAME]["mIoU"] == 76.89 and presets[NAME]["num_classes"] == 19


# Downloads. A server on this machine replaces the publisher's.


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `body` for any path, at most its first `limit` bytes, after `delay` seconds; understands Range if `ranges`."""

    body, limit, ranges, etag, requests, delay = b"", None, True, '"1"', [], 0

    def do_GET(self):
        range_header = self.headers.get("Range") if self.ranges and self.headers.get("If-Range") == self.etag else None
        start = int(range_header.removeprefix("bytes=").rstrip("-")) if range_header else 0
        type(self).requests.append(start)
        self.send_response(206 if range_header else 200)
        self.send_header("ETag", self.etag)
        if range_header:
            self.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        time.sleep(self.delay)
        self.wfile.write(self.body[start : self.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, weights):
    class Own(Server):
        body, requests = released(weights), []

    monkeypatch.setattr(fetch, "WAITS", ())  # one attempt, whose requests a test counts
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        monkeypatch.setattr(Row, "url", property(lambda row: f"http://127.0.0.1:{running.server_port}/{row.file}"))
        yield Own
        running.shutdown()
        thread.join()


def test_a_missing_file_is_downloaded_once(cache, server):
    assert same_logits(load(), drawn(NAME)) and same_logits(load(), drawn(NAME))
    assert server.requests == [0]
    assert sorted(path.name for path in cache.iterdir()) == [ROW.file, f"{ROW.file}.sha256"]
    assert (cache / ROW.file).read_bytes() == server.body


@pytest.mark.skipif(fetch.fcntl is None, reason="this system cannot lock a folder")
def test_two_that_want_one_file_download_it_once(cache, server):
    server.delay = 0.5  # seconds in which the other one would begin its download
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch.fetch(ROW.url, lambda part: None), range(2)))
    assert server.requests == [0] and paths == [cache / ROW.file] * 2
    assert paths[0].read_bytes() == server.body


def test_a_broken_download_goes_on_where_it_ended(cache, server):
    server.limit = len(server.body) // 3
    with pytest.raises(FileNotFoundError, match=f"ended after {server.limit} of {len(server.body)} bytes"):
        load()
    assert [path.name for path in cache.iterdir() if path.suffix == ".pth"] == []
    server.limit = None
    assert same_logits(load(), drawn(NAME))
    assert server.requests == [0, len(server.body) // 3] and (cache / ROW.file).read_bytes() == server.body


def test_a_part_of_another_version_is_not_continued(cache, server):
    server.limit = 1000
    with pytest.raises(FileNotFoundError):
        load()
    server.limit, server.etag = None, '"2"'
    load()
    assert server.requests == [0, 0] and (cache / ROW.file).read_bytes() == server.body


def test_a_server_without_ranges_starts_again(cache, server):
    server.limit, server.ranges = 1000, False
    with pytest.raises(FileNotFoundError):
        load()
    server.limit = None
    load()
    assert (cache / ROW.file).read_bytes() == server.body


@pytest.mark.parametrize("body, kind", [(b"<!DOCTYPE html><html>Not here</html>", "HTML"), (b"", "empty")])
def test_what_is_no_checkpoint_does_not_enter_the_cache(cache, server, body, kind):
    server.body = body
    with pytest.raises(ValueError, match=f"(?i){kind}"):
        load()
    assert not list(cache.glob("*.pth*"))


def test_without_a_network_the_error_says_where_to_put_which_file(cache, monkeypatch):
    monkeypatch.setattr(Row, "url", property(lambda row: f"http://127.0.0.1:1/{row.file}"))
    with pytest.raises(FileNotFoundError) as error:
        load()
    assert all(
        part in str(error.value) for part in (ROW.file, str(cache), f"http://127.0.0.1:1/{ROW.file}", "weights=")
    )


def test_a_cache_that_cannot_be_a_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_DEEPLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="DEEPLAB_CACHE must be a folder.* Received: .*file .*File exists"):
        load()


def test_the_default_cache_is_in_kerass_home(monkeypatch):
    monkeypatch.delenv("KERAS_DEEPLAB_CACHE", raising=False)
    monkeypatch.setenv("KERAS_HOME", "/somewhere")
    assert fetch.cache_dir() == Path("/somewhere/keras_deeplab")
    monkeypatch.delenv("KERAS_HOME")
    assert fetch.cache_dir() == Path.home() / ".keras" / "keras_deeplab"


def test_the_metadata_of_a_saved_model_is_plain_json():
    json.dumps(drawn(NAME).get_config())
