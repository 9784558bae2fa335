"""Requests as clients send them: errors say which picture is bad and why; REST and gRPC messages are answered."""

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
    """A PNG file that ends after its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def jpeg_header(width, height):
    """A JPEG file whose header has a wrong size."""
    data = bytearray(GOOD)
    start = data.index(b"\xff\xc0") + 5  # where the frame header has height and width
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def encoded(file_format):
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(picture(20, 30, seed=0)).save(file, file_format)
    return file.getvalue()


BAD = {  # name: (bytes, a part of the error message)
    "empty": (b"", "JPEG or PNG file. Received: no bytes"),
    "text": (b"no picture", "Received: an unknown kind of file"),
    "GIF": (encoded("GIF"), "Received: GIF"),
    "BMP": (encoded("BMP"), "Received: BMP"),
    "WebP": (encoded("WebP"), "Received: WebP"),
    "TIFF": (encoded("TIFF"), "Received: TIFF"),
    "base64": (base64.b64encode(GOOD), "Received: base64 text. In JSON, write {.*b64"),
    "CMYK": ((PICTURES / "cmyk.jpg").read_bytes(), "not CMYK. Received: 4 channels"),
    "large PNG": (png_header(60_000, 60_000), "at most 20000 pixels .max_pixels, set at export.*Received: 60000x60000"),
    "large JPEG": (jpeg_header(60_000, 60_000), "at most 20000 pixels .*Received: 60000x60000"),
    "long PNG": (png_header(2**31 - 1, 1), "and 32768 a side. Received: 2147483647x1"),
    "damaged PNG": ((PICTURES / "rgba.png").read_bytes()[:200], "Invalid PNG"),
    "damaged JPEG": (GOOD[:300], "Invalid JPEG"),
    "PNG without pixels": (png_header(0, 5), "Invalid PNG"),
    "PNG without a header": (b"\x89PNG\r\n\x1a\n", "Invalid PNG"),
    "JPEG without a header": (b"\xff\xd8\xff", "Invalid JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_error_of_a_bad_picture_says_why_and_the_next_request_is_answered(name, models, signatures):
    data, message = BAD[name]
    serve = signatures["whole"]["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        serve(image_bytes=tf.constant([data]))
    labels = tf.io.decode_png(serve(image_bytes=tf.constant([GOOD]))["label_png"][0])[..., 0]
    assert np.array_equal(labels, kd.segment(models["whole"], GOOD))


@pytest.mark.parametrize("name", ["GIF", "CMYK", "large PNG"])
def test_the_error_names_the_bad_picture_of_a_batch(name, signatures):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Picture 2 of the 3 in this batch"):
        signatures["whole"]["rest"](image_bytes=tf.constant([GOOD, BAD[name][0], GOOD]))


@pytest.mark.parametrize("shape, message", [
    ((0, 60, 80, 3), "A batch must have at least one picture, each of 1 to 20000 pixels"),
    ((1, 0, 5, 3), "each of 1 to 20000 pixels"),
    ((1, 100, 201, 3), r"each of 1 to 20000 pixels .max_pixels, set at export.*Received N, H, W:\] \[1\] \[100\] \[201\]"),
    ((5000, 100, 160, 3), "A response can have at most 2147483647 bytes"),
])  # fmt: skip
def test_batches_that_are_empty_or_too_large_are_refused(shape, message, signatures):
    images = tf.broadcast_to(tf.zeros([], tf.uint8), shape)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["whole"]["scores"](images=images)


def test_a_batch_of_no_files_gives_no_label_maps(signatures):
    assert signatures["whole"]["serving_default"](image_bytes=tf.zeros([0], tf.string))["label_png"].shape == (0,)


def test_a_file_with_200_000_empty_segments_is_decoded(models, signatures):
    data = GOOD[:2] + b"\xff\xfe\x00\x02" * 200_000 + GOOD[2:]  # the segments are empty comments
    png = signatures["whole"]["serving_default"](image_bytes=tf.constant([data]))["label_png"][0]
    assert np.array_equal(tf.io.decode_png(png)[..., 0], kd.segment(models["whole"], GOOD))


def test_json_requests_are_answered_in_base64(models, signatures):
    body = json.dumps({"signature_name": "rest", "instances": [{"b64": base64.b64encode(GOOD).decode()}] * 2})
    request = json.loads(body)  # as TensorFlow Serving does, which decodes {"b64": ...} to bytes
    data = tf.constant([base64.b64decode(instance["b64"]) for instance in request["instances"]])
    ((name, pngs),) = signatures["whole"][request["signature_name"]](image_bytes=data).items()
    assert name.endswith("_bytes")  # TensorFlow Serving writes outputs of such names as {"b64": ...}
    for png in pngs:
        assert np.array_equal(tf.io.decode_png(png)[..., 0], kd.segment(models["whole"], GOOD))


def fields(data):
    """{field number: [bytes]} of a protocol buffer, whose definition is not needed."""
    message = empty_pb2.Empty()
    message.ParseFromString(data)
    values = {}
    for field in unknown_fields.UnknownFieldSet(message):
        values.setdefault(field.field_number, []).append(field.data)
    return values


def warmup_requests(folder):
    """Yields (signature, {input: array}) of the warm-up file; fields as in prediction_log.proto and predict.proto."""
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
        (predict_log,) = fields(record.numpy())[6]
        (request,) = fields(predict_log)[1]
        (spec,), inputs = fields(request)[1], [fields(entry) for entry in fields(request)[2]]
        tensors = {e[1][0].decode(): tf.make_ndarray(tf.make_tensor_proto(0).FromString(e[2][0])) for e in inputs}
        yield fields(spec)[3][0].decode(), tensors


def test_the_requests_of_the_warm_up_file_are_answered(models, folders, signatures):
    requests = list(warmup_requests(folders["whole"]))
    assert [name for name, _ in requests] == ["serving_default", "rest", "tensor", "scores"]
    for name, inputs in requests:
        ((_, output),) = signatures["whole"][name](**{key: tf.constant(value) for key, value in inputs.items()}).items()
        if name == "serving_default":
            labels = tf.io.decode_png(output[0])[..., 0]
            assert np.array_equal(labels, kd.segment(models["whole"], inputs["image_bytes"][0]))
            assert labels.shape == (96, 128)  # of the box


def test_messages_of_tensorflow_serving_api_are_answered(models, folders, signatures):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="needs tensorflow-serving-api")
    from tensorflow_serving.apis import prediction_log_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "deeplab", "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([GOOD, encoded("PNG")]))
    request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    signature = signatures["whole"][request.model_spec.signature_name]
    outputs = signature(**{name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()})
    response = predict_pb2.PredictResponse()
    for name, value in outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    pngs = tf.make_ndarray(predict_pb2.PredictResponse.FromString(response.SerializeToString()).outputs["label_png"])
    for png, data in zip(pngs, (GOOD, encoded("PNG")), strict=True):
        assert np.array_equal(tf.io.decode_png(png)[..., 0], kd.segment(models["whole"], data))

    path = str(folders["whole"] / "assets.extra" / "tf_serving_warmup_requests")
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(path)]
    for log, (name, inputs) in zip(logs, warmup_requests(folders["whole"]), strict=True):
        request = log.predict_log.request
        assert request.model_spec.signature_name == name and set(request.inputs) == set(inputs)
        for key, value in inputs.items():
            assert np.array_equal(tf.make_ndarray(request.inputs[key]), value)


# A program with the arguments: SavedModel, .npz of good files, their labels and bad files. Four threads send 550 requests. It
# prints the number of wrong answers, and the resident memory in bytes after 100 requests and at the end.
SOAK = """
import os, threading
import numpy as np, tensorflow as tf
folder, source = sys.argv[1:]
data, lock, memory, mistakes = np.load(source), threading.Lock(), [], []
good = [data[f"file {i}"].tobytes() for i in range(10)]
bad = [data[name].tobytes() for name in data.files if name.startswith("bad ")]
labels = [data[f"labels {i}"] for i in range(10)]
work = [None if i % 11 == 10 else i % 10 for i in range(550)]  # number of a good file; None for a bad one
serve = tf.saved_model.load(folder).signatures["serving_default"]
def send_requests():
    while True:
        with lock:
            if len(work) in (450, 0):
                memory.append(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            if not work:
                return
            number, left = work.pop(), len(work)
        try:
            png = serve(image_bytes=tf.constant([bad[left % len(bad)] if number is None else good[number]]))["label_png"][0]
            right = number is not None and np.array_equal(tf.io.decode_png(png)[..., 0], labels[number])
        except tf.errors.InvalidArgumentError:
            right = number is None
        if not right:
            mistakes.append((number, left))
threads = [threading.Thread(target=send_requests) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(mistakes), memory[0], memory[-1])
"""


@pytest.mark.slow
def test_550_requests_by_four_threads_are_answered_right_and_leak_no_memory(models, folders, tmp_path):
    arrays = {f"bad {name}": np.frombuffer(data, np.uint8) for name, (data, _) in BAD.items()}
    for i in range(10):
        file = tf.io.encode_jpeg(picture(20 + 7 * i, 30 + 11 * i, seed=i)).numpy()
        arrays[f"file {i}"] = np.frombuffer(file, np.uint8)
        arrays[f"labels {i}"] = kd.segment(models["whole"], file)
    np.savez(tmp_path / "requests.npz", **arrays)
    command = [sys.executable, "-c", WITHOUT_KERAS + SOAK, str(folders["whole"]), str(tmp_path / "requests.npz")]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    mistakes, after_100, at_end = map(int, completed.stdout.split()[-3:])
    print(f"resident memory after 100 requests {after_100 / 2**20:.0f} MiB, at the end {at_end / 2**20:.0f} MiB")
    assert not mistakes and at_end <= 1.1 * after_100
