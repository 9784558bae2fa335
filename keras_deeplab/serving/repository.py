"""A folder of SavedModels in, the version folders and configuration files that TensorFlow Serving needs out.

models/
  models.config, batching.config, monitoring.config, docker-compose.yml
  deeplab/1/saved_model.pb, ...
"""

import contextlib
import os
import re
from pathlib import Path

from google.protobuf.text_encoding import CEscape

from keras_deeplab.files import written_whole
from keras_deeplab.serving.replace import exporting

# Each export rewrites models.config if it begins with this line. Folders of earlier exports have it: it must not change.
GENERATED_LINE = "# Written by keras_deeplab for every model in this folder. Without this line it is left as it is.\n"

MODEL_ENTRY = """\
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
"""

BATCHING = """\
# For --enable_batching (see docker-compose.yml). Waiting requests are joined, up to max_batch_size pictures.
max_batch_size { value: 8 }
batch_timeout_micros { value: 0 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 }
"""

MONITORING = """\
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""

COMPOSE = """\
services:
  serving:
    image: tensorflow/serving:${TF_SERVING_VERSION:-latest}
    ports: ["8500:8500", "8501:8501"]  # gRPC, REST
    volumes: ["./:/models:ro"]
    command:
      - --model_config_file=/models/models.config
      - --model_config_file_poll_wait_seconds=60
      - --monitoring_config_file=/models/monitoring.config
      - --rest_api_timeout_in_ms=120000
      # Pictures are processed one by one in any case. If requests are joined, one bad picture fails all of them.
      # - --enable_batching
      # - --batching_parameters_file=/models/batching.config
    restart: unless-stopped
"""


@contextlib.contextmanager
def new_version(folder, name):
    """Gives the path of `next_version`, and lets no other process export a version of this model inside the block.

    Raises:
        ValueError: as `next_version`.
        InUseError: if another process exports a version of this model.
    """
    next_version(folder, name)  # refuses a wrong name before anything is written
    with exporting(Path(folder, name).resolve()):
        yield next_version(folder, name)


def next_version(folder, name):
    """The path of a new version of a model: FOLDER/NAME/N, where N is one more than the highest existing version, or 1.

    Raises:
        ValueError: if the name has other characters than letters, digits, "_", "-" and ".", or begins with "-" or ".".
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            "A model's name must consist of letters, digits, '_', '-' and '.', and must not begin with '-' or '.'. "
            f"Received: {name!r}."
        )
    return Path(folder, name, str(max(versions(Path(folder, name)), default=0) + 1))


def versions(folder):
    """The version numbers in a model's folder, sorted. One that is still being written is called ".3.new"."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def write_configs(folder):
    """Writes the configuration files of a folder of models.

    models.config, the list of the models, is written again each time, unless its first line was removed. The other files
    are written only if they do not exist.

    Returns:
        The paths of the files that were written.
    """
    folder, written = Path(folder), []
    texts = {"batching.config": BATCHING, "monitoring.config": MONITORING, "docker-compose.yml": COMPOSE}
    for name, text in {"models.config": models_config(folder), **texts}.items():
        path = folder / name
        if not path.exists() or path.read_text().startswith(GENERATED_LINE):
            write(path, text)
            written.append(path)
    models = folder / "models.config"
    # Again if another export has added its model meanwhile: whichever process writes last then lists both.
    while models in written and (text := models_config(folder)) != models.read_text():
        write(models, text)
    return written


def models_config(folder):
    """The text of models.config: every model in the folder."""
    # A folder may have any name: its quotes and line ends must not end the string.
    names = sorted(CEscape(os.fsencode(path.name), as_utf8=False) for path in folder.iterdir() if versions(path))
    entries = "".join(MODEL_ENTRY.format(name=name) for name in names)
    return GENERATED_LINE + "model_config_list {\n" + entries + "}\n"


def write(path, text):
    """Writes a file whole: a server may read it at any time."""
    with written_whole(path) as new:
        new.write_text(text)
