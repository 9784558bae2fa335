"""What clients send: bad pictures end in an error that says what and which, messages of both kinds are answered."""

import base64
import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import empty_pb2, unknown_fields
from PIL import Image
from support import GOLDEN
from support.drawn import picture

import keras_deeplab as kd
from keras_deeplab.serving.verify import WITHOUT_KERAS

PICTURES = GOLDEN / "pictures"
GOOD = (PICTURES / "subsampled.jpg").read_bytes()


def png_header(width, height):
    """A PNG that says how large it is, and nothing more."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def jpeg_header(width, height):
    """A JPEG whose header says a size of its own."""
    data = bytearray(GOOD)
    start = data.index(b"\xff\xc0") + 5  # of the frame header's height and width
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def saved(kind, **options):
    file = io.BytesIO()
    Image.fromarray(picture(20, 30, seed=0)).save(file, kind, **options)
    return file.getvalue()


BAD = {
    "empty": (b"", "JPEG or PNG file. It is: empty"),
    "text": (b"no picture", "It is: no picture file"),
    "GIF": (saved("GIF"), "It is: GIF"),
    "BMP": (saved("BMP"), "It is: BMP"),
    "WebP": (saved("WebP"), "It is: WebP"),
    "TIFF": (saved("TIFF"), "It is: TIFF"),
    "base64": (base64.b64encode(GOOD), "It is: base64 text; JSON holds it as {.*b64"),
    "CMYK": ((PICTURES / "cmyk.jpg").read_bytes(), "not CMYK. Channels: 4"),
    "large PNG": (png_header(60_000, 60_000), "at most 20000 pixels .max_pixels, set at export.*It is: 60000x60000"),
    "large JPEG": (jpeg_header(60_000, 60_000), "at most 20000 pixels .*It is: 60000x60000"),
    "long PNG": (png_header(2**31 - 1, 1), "and 32768 a side. It is: 2147483647x1"),
    "damaged PNG": ((PICTURES / "rgba.png").read_bytes()[:200], "Invalid PNG"),
    "damaged JPEG": (GOOD[:300], "Invalid JPEG"),
    "PNG without pixels": (png_header(0, 5), "Invalid PNG"),
    "PNG without a header": (b"\x89PNG\r\n\x1a\n", "Invalid PNG"),
    "JPEG without a header": (b"\xff\xd8\xff", "Invalid JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_an_error_that_says_what_and_the_next_request_is_answered(name, models, signatures):
    data, message = BAD[name]
    serve = signatures["whole"]["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        serve(image_bytes=tf.constant([data]))
    labels = tf.io.decode_png(serve(image_bytes=tf.constant([GOOD]))["label_png"][0])[..., 0]
    assert np.array_equal(labels, kd.segment(models["whole"], GOOD))


@pytest.mark.parametrize("name", ["GIF", "CMYK", "large PNG"])
def test_of_a_batch_the_bad_picture_is_named(name, signatures):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Picture 2 of the 3 in this batch"):
        signatures["whole"]["rest"](image_bytes=tf.constant([GOOD, BAD[name][0], GOOD]))


@pytest.mark.parametrize("shape, message", [
    ((0, 60, 80, 3), "A batch is one picture or more, each of 1 to 20000 pixels"),
    ((1, 0, 5, 3), "each of 1 to 20000 pixels"),
    ((1, 100, 201, 3), r"each of 1 to 20000 pixels .max_pixels, set at export.*N, H, W:\] \[1\] \[100\] \[201\]"),
    ((5000, 100, 160, 3), "A response holds at most 2147483647 bytes"),
])  # fmt: skip
def test_tensors_too_small_or_too_large_are_refused(shape, message, signatures):
    images = tf.broadcast_to(tf.zeros([], tf.uint8), shape)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["whole"]["scores"](images=images)


def test_an_empty_batch_is_answered_by_an_empty_one(signatures):
    assert signatures["whole"]["serving_default"](image_bytes=tf.zeros([0], tf.string))["label_png"].shape == (0,)


def test_a_file_of_endless_segments_takes_no_endless_time(models, signatures):
    data = GOOD[:2] + b"\xff\xfe\x00\x02" * 200_000 + GOOD[2:]  # comments of no length
    png = signatures["whole"]["serving_default"](image_bytes=tf.constant([data]))["label_png"][0]
    assert np.array_equal(tf.io.decode_png(png)[..., 0], kd.segment(models["whole"], GOOD))


def test_json_requests_are_answered_in_base64(models, signatures):
    body = json.dumps({"signature_name": "rest", "instances": [{"b64": base64.b64encode(GOOD).decode()}] * 2})
    request = json.loads(body)  # TensorFlow Serving takes {"b64": ...} as bytes ...
    data = tf.constant([base64.b64decode(instance["b64"]) for instance in request["instances"]])
    ((name, pngs),) = signatures["whole"][request["signature_name"]](image_bytes=data).items()
    assert name.endswith("_bytes")  # ... and writes outputs of such names so
    for png in pngs:
        assert np.array_equal(tf.io.decode_png(png)[..., 0], kd.segment(models["whole"], GOOD))


def fields(data):
    """{number: [bytes]} of a protocol buffer, without its definition."""
    message = empty_pb2.Empty()
    message.ParseFromString(data)
    found = {}
    for field in unknown_fields.UnknownFieldSet(message):
        found.setdefault(field.field_number, []).append(field.data)
    return found


def warmup_requests(folder):
    """[(signature, {input: array})] of the warm-up file, by the field numbers of prediction_log.proto and predict.proto."""
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
        (predict_log,) = fields(record.numpy())[6]
        (request,) = fields(predict_log)[1]
        (spec,), inputs = fields(request)[1], [fields(entry) for entry in fields(request)[2]]
        tensors = {e[1][0].decode(): tf.make_ndarray(tf.make_tensor_proto(0).FromString(e[2][0])) for e in inputs}
        yield fields(spec)[3][0].decode(), tensors


def test_the_warm_up_file_is_read_back_and_run(models, folders, signatures):
    requests = list(warmup_requests(folders["whole"]))
    assert [name for name, _ in requests] == ["serving_default", "rest", "tensor", "scores"]
    for name, inputs in requests:
        ((_, output),) = signatures["whole"][name](**{key: tf.constant(value) for key, value in inputs.items()}).items()
        if name == "serving_default":
            labels = tf.io.decode_png(output[0])[..., 0]
            assert np.array_equal(labels, kd.segment(models["whole"], inputs["image_bytes"][0]))
            assert labels.shape == (96, 128)  # the box


def test_messages_of_tensorflow_serving_api_are_answered(models, folders, signatures):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="needs tensorflow-serving-api")
    from tensorflow_serving.apis import prediction_log_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "deeplab", "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([GOOD, saved("PNG")]))
    request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    signature = signatures["whole"][request.model_spec.signature_name]
    answer = signature(**{name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()})
    response = predict_pb2.PredictResponse()
    for name, value in answer.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    pngs = tf.make_ndarray(predict_pb2.PredictResponse.FromString(response.SerializeToString()).outputs["label_png"])
    for png, data in zip(pngs, (GOOD, saved("PNG")), strict=True):
        assert np.array_equal(tf.io.decode_png(png)[..., 0], kd.segment(models["whole"], data))

    path = str(folders["whole"] / "assets.extra" / "tf_serving_warmup_requests")
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(path)]
    for log, (name, inputs) in zip(logs, warmup_requests(folders["whole"]), strict=True):
        request = log.predict_log.request
        assert request.model_spec.signature_name == name and set(request.inputs) == set(inputs)
        for key, value in inputs.items():
            assert np.array_equal(tf.make_ndarray(request.inputs[key]), value)


SOAK = """
import os, threading
import numpy as np, tensorflow as tf
folder, source = sys.argv[1:]
data, lock, memory, mistakes = np.load(source), threading.Lock(), [], []
good = [data[f"file {i}"].tobytes() for i in range(10)]
bad = [data[name].tobytes() for name in data.files if name.startswith("bad ")]
labels = [data[f"labels {i}"] for i in range(10)]
work = [None if i % 11 == 10 else i % 10 for i in range(550)]  # every eleventh is bad
serve = tf.saved_model.load(folder).signatures["serving_default"]
def client():
    while True:
        with lock:
            if len(work) in (450, 0):
                memory.append(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            if not work:
                return
            job, left = work.pop(), len(work)
        try:
            png = serve(image_bytes=tf.constant([bad[left % len(bad)] if job is None else good[job]]))["label_png"][0]
            right = job is not None and np.array_equal(tf.io.decode_png(png)[..., 0], labels[job])
        except tf.errors.InvalidArgumentError:
            right = job is None
        if not right:
            mistakes.append((job, left))
threads = [threading.Thread(target=client) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(mistakes), memory[0], memory[-1])
"""


@pytest.mark.slow
def test_550_requests_by_four_threads_leak_nothing_and_are_answered_right(models, folders, tmp_path):
    arrays = {f"bad {name}": np.frombuffer(data, np.uint8) for name, (data, _) in BAD.items()}
    for i in range(10):
        file = tf.io.encode_jpeg(picture(20 + 7 * i, 30 + 11 * i, seed=i)).numpy()
        arrays[f"file {i}"] = np.frombuffer(file, np.uint8)
        arrays[f"labels {i}"] = kd.segment(models["whole"], file)
    np.savez(tmp_path / "requests.npz", **arrays)
    command = [sys.executable, "-c", WITHOUT_KERAS + SOAK, str(folders["whole"]), str(tmp_path / "requests.npz")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    mistakes, after_100, at_end = map(int, done.stdout.split()[-3:])
    print(f"resident after 100 requests {after_100 / 2**20:.0f} MiB, at the end {at_end / 2**20:.0f} MiB")
    assert not mistakes and at_end <= 1.1 * after_100
