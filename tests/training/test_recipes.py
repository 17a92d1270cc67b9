"""The recipes: which views an epoch sees, and that the sources' recipe is left as it is."""

from __future__ import annotations

from pathlib import Path

import train
from skin.data.augment import augment
from skin.data.dataset import PLAIN
from skin.training.options import Options, read_options
from skin.training.recipes import RECIPES, Recipe
from skin.training.records import StepRecord
from skin.training.splits import read_splits
from skin.utils.parallel import Topology

import pytest
import torch

CPU = Topology(torch.device("cpu"))


def test_the_standard_recipe_changes_nothing() -> None:
    assert RECIPES["standard"] == Recipe()
    assert {RECIPES["standard"].image_size(epoch, 20, 300) for epoch in range(20)} == {300}


@pytest.mark.parametrize(
    ("epochs", "full", "sides"),
    [
        (4, 128, [96, 96, 128, 128]),  # 0.75 * 128
        (3, 300, [224, 224, 300]),  # 225 is not a multiple of 32; round(1.5) is even
        (2, 32, [32, 32]),  # none smaller than 32
        (1, 128, [128]),  # the last epoch always sees what evaluation shows
    ],
)
def test_early_epochs_see_smaller_views(epochs: int, full: int, sides: list[int]) -> None:
    recipe = Recipe(small_side=0.75, small_epochs=0.5)
    assert [recipe.image_size(epoch, epochs, full) for epoch in range(epochs)] == sides


def test_what_the_fast_recipe_sets_gives_way_to_the_command_line(tmp_path: Path) -> None:
    read = lambda *words: read_options(None, ["--data", str(tmp_path), "--recipe", "fast", *words])  # noqa: E731
    settings = read()
    assert {name: getattr(settings, name) for name in RECIPES["fast"].defaults} == dict(RECIPES["fast"].defaults)
    assert read("--epochs", "7").epochs == 7


@pytest.fixture(scope="module")
def fast(demo_folder: Path) -> Options:
    return Options(
        data=demo_folder, model="efficientnet_b0", weights="none", image_size=96, batch_size=64, epochs=3,
        recipe="fast", amp="off", workers=0, cache="off",
    )  # fmt: skip


def test_the_loop_sees_each_epochs_views(fast: Options) -> None:
    trainer = train.build_trainer(fast, CPU, read_splits(fast))
    sides = [RECIPES["fast"].image_size(epoch, 3, 96) for epoch in range(3)]
    assert sides[0] < sides[-1] == 96
    seen: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        nothing = StepRecord(*torch.zeros(5))
        patch.setattr(train, "train_step", lambda trainer, batch, *rest: (seen.append(batch.images), nothing)[1])
        for epoch in range(3):
            first = len(seen)
            done = next(train.train_steps(trainer, epoch))
            row, stored = int(done.rows[0]), trainer.dataset.stored(int(done.rows[0]))
            expected = augment(stored, sides[epoch], (0, epoch, row), span=96)
            assert torch.equal(seen[first][0], torch.from_numpy(expected))
    assert trainer.dataset.__getitems__([(PLAIN, 0)]).images.shape == (1, 96, 96, 3)
