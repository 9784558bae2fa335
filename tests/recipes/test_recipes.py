"""Every row's recipe equals its training configuration in mmsegmentation, and compiles a model by it."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import support
from support.drawn import NARROW, batches
from support.narrow import drawn

import keras_deeplab as kd
from keras_deeplab import recipes
from keras_deeplab.catalog import authors, openmmlab, rows, torchvision
from keras_deeplab.training import losses, optimizers

GOLDEN = json.loads((support.GOLDEN / "recipes.json").read_text())
FACTS = {row[0]: dict(zip(GOLDEN["columns"], row, strict=True)) for row in GOLDEN["rows"]}


@pytest.mark.parametrize("name", openmmlab.ROWS)
def test_recipes_hold_the_rows_facts(name):
    recipe, expected = recipes.find(name), dict(FACTS[name])
    assert expected.pop("name") == recipe.row.name
    if expected["momentum"] is None:  # AdamW has none
        expected.pop("momentum")
    for fact, value in expected.items():
        assert getattr(recipe, fact) == (tuple(value) if isinstance(value, list) else value), fact


def test_short_names_find_the_same_recipe_as_full_ones():
    assert recipes.find("deeplabv3plus_r101_cityscapes") == recipes.find(
        "deeplabv3plus_r101-d8_512x1024_80k_cityscapes"
    )
    with pytest.raises(ValueError, match="Closest: deeplabv3plus_r101_cityscapes"):
        recipes.find("deeplabv3plus_r110_cityscapes")


def test_every_recipe_file_opens_with_a_command_of_its_own_data_set():
    for row in openmmlab.ROWS.values():
        text = Path(recipes.__file__).with_name(f"{row.dataset}.py").read_text()
        name = text.split("keras-deeplab train ")[1].split()[0]
        best = rows.find(name)
        assert best.dataset == row.dataset and f"{best.mIoU:.2f} mIoU after {best.iterations:,} steps" in " ".join(
            text.split()
        )


def test_compile_sets_optimizer_schedule_and_losses():
    model = drawn("deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes", auxiliary_head=True)
    recipes.find(model.row).compile(model, steps=11, learning_rate=0.1)
    optimizer = model.optimizer
    assert isinstance(optimizer, optimizers.SGD) and optimizer.decay == 5e-4 and optimizer.momentum == 0.9
    rates = [float(optimizer._learning_rate(step)) for step in (0, 5, 10, 99)]
    assert rates == pytest.approx([0.1, (0.1 - 1e-4) * 0.5**0.9 + 1e-4, 1e-4, 1e-4], rel=1e-5)
    assert model.loss["logits"].min_kept == 100_000 and model.loss["auxiliary"].min_kept is None
    assert isinstance(model.loss["auxiliary"], losses.PixelCrossEntropy)


def test_float16_is_trained_with_a_loss_scale():
    name = "deeplabv3plus_r101-d8_fp16_512x1024_80k_cityscapes"
    model = drawn(name, dtype="mixed_float16")
    recipes.find(name).compile(model)
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer) and model.optimizer.initial_scale == 512


def test_multipliers_must_name_variables():
    model = drawn("deeplabv3plus_r18_loveda")
    recipes.find("deeplabv3plus_r18_loveda").compile(model, multipliers={"backbon_": 0.1})
    with pytest.raises(ValueError, match="Received: backbon_, with which no path begins"):
        model.optimizer.build(model.trainable_variables)


def test_a_compiled_model_keeps_its_optimizer_in_a_file(tmp_path):
    model = drawn("deeplabv3plus_r18_loveda")
    recipes.find("deeplabv3plus_r18_loveda").compile(model)
    model.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    assert type(loaded.optimizer) is optimizers.SGD and loaded.optimizer.get_config() == model.optimizer.get_config()


@pytest.mark.slow
def test_what_is_frozen_stays_frozen_in_a_file_with_the_optimizer_s_state(tmp_path):
    name = "deeplabv3plus_r18_loveda"
    model, recipe = drawn(name, auxiliary_head=True), recipes.find(name)
    recipe.compile(model, steps=4, learning_rate=0.01, freeze=["norms"])
    pictures, labels = batches(1, 1, 33, 33, 7)
    model.fit(pictures[0], labels[0], batch_size=1, verbose=0)
    model.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    frozen = [layer.name for layer in model.layers if layer.weights and not layer.trainable]
    norms = [layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert frozen == norms == [layer.name for layer in loaded.layers if layer.weights and not layer.trainable]
    states = [[np.array(v) for v in one.optimizer.variables] for one in (model, loaded)]
    assert len(states[0]) == len(states[1]) and all(map(np.array_equal, *states))
    before = [np.array(v) for v in loaded.non_trainable_variables]
    loaded.fit(pictures[0], labels[0], batch_size=1, verbose=0)
    kept = {v.path: np.array(v) for v in loaded.non_trainable_variables if "seed" not in v.path}
    assert all(np.array_equal(v, kept[w.path]) for v, w in zip(before, loaded.non_trainable_variables, strict=True)
               if w.path in kept)  # fmt: skip
    plain = kd.DeepLabV3Plus.from_preset("r18_loveda", weights=tmp_path / "x.keras")  # without the auxiliary head
    assert [layer.name for layer in plain.layers if layer.weights and not layer.trainable] == [
        layer for layer in norms if not layer.startswith("auxiliary_head")
    ]
    recipe.compile(loaded, steps=4)  # no part is named: all is trained again
    assert all(layer.trainable for layer in loaded.layers)


def test_losses_are_named_and_summed():
    name = "deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes"
    model = drawn(name, auxiliary_head=True)
    recipes.find(name).compile(model, loss={"cross-entropy": 1.0, "dice": 3.0}, class_weight=[2.0] * 19)
    parts = model.loss["logits"].parts
    assert parts[0].min_kept == 100_000 and parts[0].class_weight == (2.0,) * 19 and parts[1].use_sigmoid is False
    assert model.loss["auxiliary"].parts[0].min_kept is None and model.loss["auxiliary"].weights == (1.0, 3.0)
    one = kd.DeepLabV3Plus(2, backbone="r18", out_channels=1, **NARROW)
    recipes.find("deeplabv3plus_r18_loveda").compile(one, loss={"dice": 1.0, "focal": 2.0})
    assert one.loss.parts[0].use_sigmoid is True and isinstance(one.loss.parts[1], losses.FocalLoss)
    with pytest.raises(ValueError, match="one of cross-entropy, dice, focal. Received: hinge"):
        recipes.find(name).compile(model, loss={"hinge": 1.0})


@pytest.mark.parametrize("name", authors.ROWS)
def test_the_authors_recipes_follow_their_instructions(name):
    recipe = recipes.find(name)
    steps = {"voc12aug": 30_000, "cityscapes": 90_000, "ade20k": 150_000}[recipe.row.dataset]
    crop = (769, 769) if recipe.row.dataset == "cityscapes" else (513, 513)
    assert (recipe.steps, recipe.crop, recipe.batch, recipe.learning_rate) == (steps, crop, 16, 0.007)
    assert (recipe.weight_decay, recipe.auxiliary_head) == (4e-5, False)
    assert recipe.num_classes == recipe.row.num_classes - ("ade20k" in name)  # labels have no number for "no class"


@pytest.mark.parametrize("name", torchvision.ROWS)
def test_torchvisions_recipes_follow_its_reference_script(name):
    recipe = recipes.find(name)
    rates = (0.01, 1e-6) if "mobilenet" in name else (0.02, 1e-4)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.end_learning_rate) == (*rates, 0.0)
    assert (recipe.batch, recipe.crop, min(recipe.resize_base), recipe.resize_ratio) == (
        32,
        (480, 480),
        520,
        (0.5, 2.0),
    )
    assert (recipe.auxiliary_weight, recipe.auxiliary_multiplier, recipe.photometric) == (0.5, 10.0, False)
    assert recipe.num_classes == 21 and not recipe.reduce_zero_label


def test_torchvisions_losses_and_rates_reach_the_optimizer(tmp_path):
    model = drawn("deeplabv3_mobilenet_v3_large", auxiliary_head=True)
    recipes.find(model.row).compile(model, steps=10)
    assert model.optimizer.multipliers == {"aux_classifier-": 10.0} and model.loss["auxiliary"].avg_non_ignore
    rates = [float(model.optimizer._learning_rate(step)) for step in (0, 9, 10)]
    assert rates == pytest.approx([0.01, 0.01 * 0.1**0.9, 0.0], abs=1e-7)  # the last step's is above 0
    assert model.get_compile_config()["loss_weights"] == {"logits": 1.0, "auxiliary": 0.5}
    recipes.find(model.row).compile(model, multipliers={"aux_classifier-": 2.0})
    assert model.optimizer.multipliers == {"aux_classifier-": 2.0}
