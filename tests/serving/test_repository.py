"""Versions are numbered one after another; configuration files list every model, and files of the user are kept."""

import re

import pytest

from keras_deeplab.serving.repository import GENERATED_LINE, next_version, write_configs


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


def test_tensorflow_serving_reads_the_list_of_models(tmp_path):
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    (tmp_path / "street" / "1").mkdir(parents=True)
    write_configs(tmp_path)
    text = (tmp_path / "models.config").read_text()
    (config,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (config.name, config.base_path, config.model_platform) == ("street", "/models/street", "tensorflow")
