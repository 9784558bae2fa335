"""Two folders in, the scores of a narrow model with drawn weights out, as JSON. test_evaluate runs it in another process.

python evaluate_elsewhere.py devices IMAGES LABELS: evaluates on two logical devices.
python evaluate_elsewhere.py resume IMAGES LABELS STATE: keeps the counts in the file STATE and writes it after every picture.
"""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf  # noqa: E402
from support.narrow import drawn  # noqa: E402

from keras_deeplab.evaluation import evaluate  # noqa: E402
from keras_deeplab.inference import predictions  # noqa: E402

mode, images, labels = sys.argv[1:4]
devices = set()
if mode == "devices":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    segment = predictions.segment

    def segment_and_note_device(network, *args, **kwargs):
        network_devices = {
            weight.value.device.removeprefix("/job:localhost/replica:0/task:0/device:") for weight in network.weights
        }
        devices.update(network_devices)
        assert len(network_devices) == 1
        return segment(network, *args, **kwargs)

    predictions.segment = segment_and_note_device
    options = {"devices": ["CPU:0", "CPU:1"]}
else:
    evaluate.SAVE_SECONDS = 0
    options = {"resume": sys.argv[4], "resize": (64, 64)}
model = drawn("deeplabv3plus_r18-d8_512x512_80k_loveda")
result = evaluate.evaluate(model, images, labels, progress=False, **options)
print(json.dumps({**result, "devices": sorted(devices)}))
