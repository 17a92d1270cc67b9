"""Mixup and cutmix: what is in a picture is what its label says."""

from __future__ import annotations

from skin.data.dataset import Batch
from skin.training.mixing import mixed
from skin.training.options import Options

import pytest
import torch
from torch import Tensor

LABELS = torch.tensor([0, 1, 2, 1])
ROWS = torch.arange(4)
GREYS = torch.tensor([40, 80, 120, 160], dtype=torch.uint8)
IMAGES = GREYS[:, None, None, None].expand(4, 12, 10, 3).contiguous()


def of(seed: int, **options: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    images, shares, _ = mixed(Batch(IMAGES.clone(), LABELS, ROWS), 3, Options(**options))  # type: ignore[arg-type]
    return images, shares


def own_share(shares: Tensor) -> float:
    """The share of the own label, which all images of a batch have in common."""
    return float(shares[0, 0])  # the first image's partner is the last one, of class 1


@pytest.mark.parametrize("seed", range(8))
def test_mixup_blends_an_image_with_the_one_before_it(seed: int) -> None:
    images, shares = of(seed, mixup=0.4)
    own = own_share(shares)
    assert 0.5 <= own <= 1
    before = IMAGES.roll(1, 0).double()
    assert torch.allclose(images.double(), own * IMAGES.double() + (1 - own) * before, atol=1e-3)
    expected = torch.tensor([[own, 1 - own, 0], [1 - own, own, 0], [0, 1 - own, own], [0, own, 1 - own]])
    assert torch.allclose(shares, expected)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_pastes_as_large_a_piece_as_the_label_says(seed: int) -> None:
    images, shares = of(seed, cutmix=1.0)
    assert images.dtype == torch.uint8
    own = own_share(shares)
    assert 0.5 <= own <= 1
    for number in range(4):
        share = float((images[number] == IMAGES[number]).float().mean())
        assert share == pytest.approx(own)
    pasted = (images[0] != IMAGES[0]).all(2)
    rows, columns = pasted.any(1).nonzero().flatten(), pasted.any(0).nonzero().flatten()
    if len(rows):  # one box
        assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (images[0][pasted] == IMAGES[3, 0, 0, 0]).all()


def test_a_box_falls_everywhere() -> None:
    changed = torch.zeros(12, 10)
    for seed in range(300):
        changed += (of(seed, cutmix=1.0)[0][0] != IMAGES[0]).all(2)
    assert (changed > 0).all()


def test_with_both_each_has_its_turn() -> None:
    kinds = {of(seed, mixup=1.0, cutmix=1.0)[0].dtype for seed in range(20)}
    assert kinds == {torch.uint8, torch.float32}


def test_the_weight_of_the_batch_stays_what_it_was() -> None:
    """A step divides by the weight that the trainer has added up from the labels, over all processes."""
    weights = torch.tensor([0.3, 1.7, 5.0])
    for seed in range(4):
        _, shares = of(seed, mixup=0.4, cutmix=1.0)
        assert float((shares @ weights).sum()) == pytest.approx(float(weights[LABELS].sum()))


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_metadata_have_the_shares_of_the_labels(options: dict[str, float]) -> None:
    torch.manual_seed(3)
    known = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, 0.0], [4.0, 0.0]])
    batch = Batch(IMAGES.clone(), LABELS, ROWS, metadata=known)
    _, shares, mixed_known = mixed(batch, 3, Options(**options))  # type: ignore[arg-type]
    own = own_share(shares)
    assert mixed_known is not None
    assert 0.5 < own < 1
    assert torch.allclose(mixed_known[0], torch.tensor([(1 - own) * 4, own]))  # with the last image of the batch
    assert torch.allclose(mixed_known[2], torch.tensor([-own + (1 - own) * 2, 0.0]))


def test_the_draws_are_those_of_the_seed() -> None:
    (images, shares), (again, shares_again) = of(3, mixup=0.4), of(3, mixup=0.4)
    assert torch.equal(images, again)
    assert torch.equal(shares, shares_again)
    assert own_share(of(4, mixup=0.4)[1]) != own_share(shares)


@pytest.mark.parametrize("options", [{}, {"mixup": 0.4}])
def test_nothing_to_mix_is_left_as_it_is(options: dict[str, float]) -> None:
    images, labels = IMAGES[:1], LABELS[:1]
    if not options:
        images, labels = IMAGES, LABELS
    found = mixed(Batch(images, labels, ROWS), 3, Options(**options))  # type: ignore[arg-type]
    assert found[0] is images
    assert found[1] is labels
