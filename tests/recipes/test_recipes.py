"""Every row's recipe equals its training configuration in mmsegmentation, and compiles a model by it."""

import json
from pathlib import Path

import keras
import pytest
import support
from support.narrow import drawn

from keras_deeplab import recipes
from keras_deeplab.catalog import authors, openmmlab, rows
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
    for row in rows.ROWS.values():
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


@pytest.mark.parametrize("name", authors.ROWS)
def test_the_authors_recipes_follow_their_instructions(name):
    recipe = recipes.find(name)
    steps = {"voc12aug": 30_000, "cityscapes": 90_000, "ade20k": 150_000}[recipe.row.dataset]
    crop = (769, 769) if recipe.row.dataset == "cityscapes" else (513, 513)
    assert (recipe.steps, recipe.crop, recipe.batch, recipe.learning_rate) == (steps, crop, 16, 0.007)
    assert (recipe.weight_decay, recipe.auxiliary_head) == (4e-5, False)
    assert recipe.num_classes == recipe.row.num_classes - ("ade20k" in name)  # labels have no number for "no class"
