"""Every fact of the 92 rows equals that in mmsegmentation 1.2.2's configurations and model index; names find their rows."""

import json
import math
from pathlib import Path

import pytest
import support
from support.narrow import build

from keras_deeplab.catalog import rows
from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.catalog.openmmlab import IMAGENET, ROWS
from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.catalog.rows import find, select, short_names
from keras_deeplab.networks.backbones import BACKBONES
from keras_deeplab.zoo.models import from_preset

GOLDEN = json.loads((support.GOLDEN / "zoo.json").read_text())
FACTS = {row[0]: dict(zip(GOLDEN["columns"], row, strict=True)) for row in GOLDEN["rows"]}
CLASS_NAMES = {"deeplabv3": "DeepLabV3", "deeplabv3plus": "DeepLabV3Plus"}
PLUS = "deeplabv3plus_r101-d8_512x1024_80k_cityscapes"
V3 = "deeplabv3_r101-d8_512x1024_80k_cityscapes"
MOBILENET = "deeplabv3_m-v2-d8_512x1024_80k_cityscapes"


def plain(value):
    """A value in the form it has in JSON: tuples as lists, a protocol as a dict."""
    if isinstance(value, Protocol):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def backbone(facts):
    names = {"ResNetV1c": "r{depth}", "ResNet": "r{depth}b", "MobileNetV2": "mobilenetv2", "ResNeSt": "s{depth}"}
    return names[facts["backbone_type"]].format(**facts)


def test_the_table_has_the_92_rows_in_the_released_order():
    assert len(FACTS) == 92
    assert list(ROWS) == list(FACTS)


def mismatches(facts, expected):
    """A line for each difference between two dicts of dicts, {row: {fact: value}}."""
    return [
        f"{name}: {fact} is {facts[name][fact]!r}, not {expected[name][fact]!r}"
        for name in expected
        for fact in expected[name]
        if facts[name][fact] != expected[name][fact]
    ]


# Facts that a row does not have: the network derives them from the backbone and the output stride.
OF_NETWORKS = {"aspp_rates", "aspp_channels", "low_level_channels", "auxiliary_channels"}
OF_NETWORKS |= {"backbone_type", "depth", "stem"}  # `backbone` tells them


def test_every_fact_of_every_row_is_the_originals():
    expected = {
        name: {fact: value for fact, value in facts.items() if fact not in OF_NETWORKS} for name, facts in FACTS.items()
    }
    for name, facts in expected.items():
        facts["backbone"] = backbone(FACTS[name])
    ours = {name: {fact: plain(getattr(ROWS[name], fact)) for fact in facts} for name, facts in expected.items()}
    assert mismatches(ours, expected) == []


def test_the_heads_have_the_originals_widths():
    widths = {name: vars(BACKBONES[row.backbone]) for name, row in ROWS.items()}
    names = ("aspp_channels", "auxiliary_channels", "low_level_channels")
    expected = {
        name: {width: facts[width] for width in names if facts[width] is not None} for name, facts in FACTS.items()
    }
    assert mismatches(widths, expected) == []


@pytest.mark.parametrize("name", [V3, PLUS, "deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes", MOBILENET])
def test_a_network_takes_the_originals_rates_and_strides_from_its_row(name):
    config, facts = build(name).get_config(), FACTS[name]
    for fact in ("num_classes", "output_stride", "multi_grid", "aspp_rates", "align_corners"):
        assert plain(config[fact]) == facts[fact], fact
    assert config["backbone"] == backbone(facts)


def test_what_follows_from_the_facts_agrees_with_them():
    ours, expected = {}, {}
    for name, facts in FACTS.items():
        row, dataset = ROWS[name], GOLDEN["datasets"][facts["dataset"]]
        ours[name] = {
            "class": row.class_name,
            "backbone": row.backbone,
            "file": row.file,
            "classes": list(row.classes),
            "palette": " ".join(bytes(colour).hex() for colour in row.palette),
            "imagenet": row.imagenet in IMAGENET,
            "licence": row.checkpoint_licence.startswith("Apache-2.0"),
            "data licence": DATASETS[row.dataset].licence in row.checkpoint_licence,
        }
        expected[name] = {
            "class": CLASS_NAMES[facts["family"]],
            "backbone": backbone(facts),
            "file": facts["url"].rsplit("/", 1)[1],
            "classes": dataset["classes"],
            "palette": dataset["palette"],
            "imagenet": True,
            "licence": True,
            "data licence": True,
        }
    assert mismatches(ours, expected) == []


@pytest.mark.parametrize(
    "name", ["deeplabv3_r18-d8_512x1024_80k_cityscapes", "deeplabv3plus_r18b-d8_769x769_80k_cityscapes", MOBILENET]
)
def test_parameters_and_megabytes_are_the_networks(name):
    row = ROWS[name]
    model = from_preset(name, auxiliary_head=True, load_weights=False)
    weights = [w for layer in model.layers if not layer.name.startswith("auxiliary") for w in layer.trainable_weights]
    assert row.parameters == sum(math.prod(w.shape) for w in weights)
    assert row.megabytes == pytest.approx(4e-6 * sum(math.prod(w.shape) for w in model.weights))


def test_rows_are_selected_by_data_set_backbone_and_class():
    assert [row.name for row in select(dataset="isaid", backbone="r50")] == [
        "deeplabv3plus_r50-d8_4x4_896x896_80k_isaid"
    ]
    assert (
        len(select(class_name="DeepLabV3")) + len(select(class_name="DeepLabV3Plus")) == len(select()) == len(rows.ROWS)
    )
    assert select(dataset="loveda", class_name="DeepLabV3") == []
    with pytest.raises(ValueError, match="`backbone` must be one of .*r101, .*. Received: 'r34'"):
        select(backbone="r34")


@pytest.mark.parametrize("key", GOLDEN["datasets"])
def test_data_set_is_the_originals(key):
    dataset, golden = DATASETS[key], GOLDEN["datasets"][key]
    assert dataset.name == key
    assert dataset.title == golden["title"]
    assert dataset.reduce_zero_label == golden["reduce_zero_label"]
    assert list(dataset.classes) == golden["classes"]
    assert [bytes(colour).hex() for colour in dataset.palette] == golden["palette"].split()
    assert dataset.num_classes == len(golden["classes"])
    assert "http" in dataset.licence


def test_there_are_no_other_data_sets():
    assert set(DATASETS) == set(GOLDEN["datasets"])


def test_imagenet_has_the_backbones_of_the_rows_and_nothing_else():
    assert set(IMAGENET) == {facts["imagenet"] for facts in FACTS.values()}
    assert all(url.rpartition("/")[2].startswith(key) and url.endswith(".pth") for key, url in IMAGENET.items())


# Names.


def best_of(family):
    """{short name: name of the row with the highest mIoU}, computed from the golden numbers."""
    scores = {}
    for facts in FACTS.values():
        if facts["family"] == family:
            short = f"{backbone(facts)}_{facts['dataset']}"
            scores.setdefault(short, []).append((facts["mIoU"], facts["name"]))
    return {short: max(pairs)[1] for short, pairs in scores.items()}


def openmmlabs(class_name):
    """{short name: name of the row} of OpenMMLab's rows."""
    return {short: row.name for short, row in short_names(class_name).items() if row.source == "OpenMMLab"}


@pytest.mark.parametrize("family", CLASS_NAMES)
def test_a_short_name_is_the_row_of_highest_miou(family):
    class_name = CLASS_NAMES[family]
    expected = best_of(family)
    assert openmmlabs(class_name) == expected
    for short, name in expected.items():
        assert find(short, class_name).name == name
        for prefixed in (find(f"{family}_{short}"), find(f"{family}_{short}", class_name)):
            assert prefixed.name == name


def test_no_two_rows_tie_for_a_short_name():
    all_scores = {}  # by short name
    for facts in FACTS.values():
        all_scores.setdefault((facts["family"], backbone(facts), facts["dataset"]), []).append(facts["mIoU"])
    assert all(scores.count(max(scores)) == 1 for scores in all_scores.values())


def test_there_are_20_and_28_short_names():
    assert len(openmmlabs("DeepLabV3")) == 20
    assert len(openmmlabs("DeepLabV3Plus")) == 28


def test_a_full_name_is_found_with_and_without_its_class():
    for name, row in ROWS.items():
        assert find(name) is row and find(name, row.class_name) is row


@pytest.mark.parametrize(
    ("name", "class_name", "message"),
    [
        ("r110_cityscapes", "DeepLabV3Plus", r"^No row is named 'r110_cityscapes'\. Closest: r101_"),
        (
            "r110_cityscapes",
            "DeepLabV3Plus",
            r"All rows: .*Plus\.presets; in a shell, keras-deeplab list\.$",
        ),
        ("deeplabv3_r110_cityscapes", None, "Closest: deeplabv3_r101_cityscapes, deeplabv3_r101b_"),
        (PLUS + "_20200606_114143-068fcfe9.pth", "DeepLabV3Plus", f"Closest: {PLUS}, "),
        ("R50_Cityscapes", "DeepLabV3", "Closest: r50_cityscapes, "),
        ("", None, r"^No row is named ''\. All rows: keras_deeplab\.DeepLabV3\.presets, keras_deeplab\."),
        ("r101_cityscapes", None, "Write deeplabv3_r101_cityscapes or deeplabv3plus_r101_cityscapes"),
        ("r50_loveda", None, r"Write deeplabv3plus_r50_loveda\."),
        ("r50_loveda", "DeepLabV3", "name of a DeepLabV3Plus row only. Load it with DeepLabV3Plus.from_preset"),
        ("deeplabv3_r50_loveda", "DeepLabV3", "There is deeplabv3plus_r50_loveda, a DeepLabV3Plus row"),
        ("deeplabv3_r50_loveda", None, "There is deeplabv3plus_r50_loveda, a DeepLabV3Plus row"),
        (V3, "DeepLabV3Plus", rf"^'{V3}' is a DeepLabV3 row. Load it with DeepLabV3\.from_preset\.$"),
        (PLUS, "DeepLabV3", rf"^'{PLUS}' is a DeepLabV3Plus row. Load it with DeepLabV3Plus\.from_preset\.$"),
        ("deeplabv3_r50_cityscapes", "DeepLabV3Plus", "is a DeepLabV3 row. Load it with DeepLabV3."),
        (V3, "DeepLabV4", "`class_name` must be 'DeepLabV3' or 'DeepLabV3Plus'. Received: 'DeepLabV4'"),
    ],
)
def test_a_name_that_cannot_be_found_says_what_to_write(name, class_name, message):
    with pytest.raises(ValueError, match=message):
        find(name, class_name)


def test_a_file_in_the_place_of_a_row_is_told_from_a_misspelt_name(tmp_path):
    file = tmp_path / "model.keras"
    file.touch()
    with pytest.raises(ValueError, match="It is a file: pass it as `weights`, beside the name of its row"):
        find(str(file))


@pytest.mark.parametrize("name", [None, 3, Path("r101_cityscapes"), ["r101_cityscapes"]])
def test_a_name_is_a_string(name):
    with pytest.raises(TypeError, match="a string such as 'r101_cityscapes'. Received: "):
        find(name, "DeepLabV3")


def test_short_names_wants_a_class():
    with pytest.raises(ValueError, match="'DeepLabV3' or 'DeepLabV3Plus'"):
        short_names("deeplabv3")


# Protocols.


def test_protocols_survive_json():
    for protocol in {row.protocol for row in ROWS.values()}:
        assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_a_box_is_long_side_first_whatever_its_order():
    assert Protocol("whole", resize=[1024, 2048]) == Protocol("whole", resize=(2048, 1024))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "tile"}, "must be 'whole' or 'slide'"),
        ({"mode": "whole", "crop": (769, 769)}, "no windows, so .* must be left out"),
        ({"mode": "slide", "crop": (769, 769)}, "needs `crop` and `stride`"),
        ({"mode": "slide", "crop": (480, 480), "stride": (320, 481)}, "must be at most `crop`"),
        ({"mode": "slide", "crop": 769, "stride": 513}, "`crop` must be two positive whole numbers"),
        ({"mode": "whole", "resize": (2048, 0)}, "`resize` must be two positive whole numbers"),
        ({"mode": "whole", "resize": (2048.0, 1024.0)}, "`resize` must be two positive whole numbers"),
        ({"mode": "whole", "resize": "2048x1024"}, "`resize` must be two positive whole numbers"),
        ({"mode": "whole", "size": (2, 2)}, "A protocol must be a dict"),
        ({"crop": (2, 2)}, "A protocol must be a dict"),
        ("whole", "A protocol must be a dict"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Protocol.from_dict(fields)
