from skin.model.choices import VIEWS
from skin.model.tta import dihedral

import pytest
import torch

CORNERS = torch.tensor([[1, 2], [3, 4]])

# Worked out by hand: quarter turns anticlockwise, then the same of the mirror image.
BY_HAND = [
    [[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]],
    [[2, 1], [4, 3]], [[1, 3], [2, 4]], [[3, 4], [1, 2]], [[4, 2], [3, 1]],
]  # fmt: skip


@pytest.mark.parametrize("k", range(VIEWS))
def test_views_are_those_worked_out_by_hand(k: int) -> None:
    view = dihedral(CORNERS[None, :, :, None], k)
    assert view[0, :, :, 0].tolist() == BY_HAND[k]
    assert view.is_contiguous()


def test_views_are_all_different() -> None:
    assert len({str(view) for view in BY_HAND}) == VIEWS


def test_what_is_no_view_or_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="view 8"):
        dihedral(torch.zeros(1, 2, 2, 3), 8)
    with pytest.raises(ValueError, match="square"):
        dihedral(torch.zeros(1, 2, 3, 3), 1)
