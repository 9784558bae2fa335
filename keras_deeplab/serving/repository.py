"""A folder of models in, what TensorFlow Serving needs to serve them out: versions and configuration files.

models/
  models.config, batching.config, monitoring.config, docker-compose.yml
  deeplab/1/saved_model.pb, ...
"""

import re
from pathlib import Path

WRITTEN = "# Written by keras_deeplab for every model in this folder. Without this line it is left as it is.\n"

MODEL = """\
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
"""

BATCHING = """\
# For --enable_batching (see docker-compose.yml). Requests that wait are joined, up to max_batch_size pictures.
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
      # Pictures run one by one in any case; joined, a bad one fails the requests that it waited with.
      # - --enable_batching
      # - --batching_parameters_file=/models/batching.config
    restart: unless-stopped
"""


def next_version(folder, name):
    """The path of a new version of a model: FOLDER/NAME/N, N one more than the highest there, or 1.

    Raises:
        ValueError: if the name is no plain folder name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"A model's name has letters, digits, '_', '-' and '.'. Received: {name!r}.")
    return Path(folder, name, str(max(versions(Path(folder, name)), default=0) + 1))


def versions(folder):
    """The numbers of the versions in a model's folder; those being written have no plain number as their name."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def write_configs(folder):
    """Writes the configuration files that are not there yet; models.config anew, unless a person has taken it over.

    Returns:
        the paths written.
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if versions(path))
    models = WRITTEN + "model_config_list {\n" + "".join(MODEL.format(name=name) for name in names) + "}\n"
    texts = {
        "models.config": models,
        "batching.config": BATCHING,
        "monitoring.config": MONITORING,
        "docker-compose.yml": COMPOSE,
    }
    written = []
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text().startswith(WRITTEN):
            path.write_text(text)
            written.append(path)
    return written
