"""Versions are numbered one after another; configuration files list every model, and files of the user are kept."""

import re

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from keras_deeplab.serving.repository import GENERATED_LINE, next_version, write_configs

Field = descriptor_pb2.FieldDescriptorProto


def test_a_new_version_has_the_next_number(tmp_path):
    assert next_version(tmp_path, "deeplab") == tmp_path / "deeplab" / "1"
    for name in ("1", "9", "10", ".11.new", "notes"):
        (tmp_path / "deeplab" / name).mkdir(parents=True)
    assert next_version(tmp_path, "deeplab") == tmp_path / "deeplab" / "11"
    for name in ("", "a/b", "..", "a b"):
        with pytest.raises(ValueError, match="A model's name must consist of letters"):
            next_version(tmp_path, name)


def test_configurations_list_every_model_and_do_not_overwrite_the_users(tmp_path):
    (tmp_path / "street" / "1").mkdir(parents=True)
    (tmp_path / "pictures").mkdir()
    files = ["models.config", "batching.config", "monitoring.config", "docker-compose.yml"]
    assert [path.name for path in write_configs(tmp_path)] == files
    (tmp_path / "aerial" / "3").mkdir(parents=True)
    (tmp_path / "docker-compose.yml").write_text("mine")
    assert [path.name for path in write_configs(tmp_path)] == ["models.config"]
    models = (tmp_path / "models.config").read_text()
    assert re.findall(r'name: "(.*)"', models) == ["aerial", "street"] and '"/models/street"' in models
    assert (tmp_path / "docker-compose.yml").read_text() == "mine"
    (tmp_path / "models.config").write_text(models.replace(GENERATED_LINE, ""))
    (tmp_path / "third" / "1").mkdir(parents=True)
    assert write_configs(tmp_path) == []


# The fields that we set of two messages that tensorflow-serving-api lacks, in the order of their numbers: those of
# session_bundle_config.proto and monitoring_config.proto.
MESSAGES = {
    "BatchingParameters": dict.fromkeys(
        ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"),
        ".google.protobuf.Int64Value",
    ),
    "PrometheusConfig": {"enable": Field.TYPE_BOOL, "path": Field.TYPE_STRING},
    "MonitoringConfig": {"prometheus_config": ".PrometheusConfig"},
}


def empty(name):
    """An empty message of one of these kinds."""
    pool, file = descriptor_pool.Default(), descriptor_pb2.FileDescriptorProto(name="serving.proto")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for one, fields in MESSAGES.items():
        message = file.message_type.add(name=one)
        for number, (field, kind) in enumerate(fields.items(), 1):
            kind = {"type_name": kind, "type": Field.TYPE_MESSAGE} if isinstance(kind, str) else {"type": kind}
            message.field.add(name=field, number=number, label=Field.LABEL_OPTIONAL, **kind)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def test_tensorflow_serving_reads_the_configurations(tmp_path):
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
    from tensorflow_serving.config import model_server_config_pb2

    def parsed(name, message):
        return text_format.Parse((tmp_path / name).read_text(), message)

    names = ["street", 'a" } config { name: "b', "line\nend", "back\\slash", "stra\u00dfe", "{name}"]
    for name in names:  # folders that we would not name so, but that may lie there
        (tmp_path / name / "1").mkdir(parents=True)
    write_configs(tmp_path)
    configs = parsed("models.config", model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert {(one.name, one.base_path, one.model_platform) for one in configs} == {
        (name, f"/models/{name}", "tensorflow") for name in names
    }
    monitoring = parsed("monitoring.config", empty("MonitoringConfig")).prometheus_config
    assert monitoring.enable and monitoring.path == "/monitoring/prometheus/metrics"
    batching = parsed("batching.config", empty("BatchingParameters"))
    assert (batching.max_batch_size.value, batching.batch_timeout_micros.value) == (8, 0)
    assert (batching.num_batch_threads.value, batching.max_enqueued_batches.value) == (2, 64)
