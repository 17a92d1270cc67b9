"""Augmentation: a pure function of (seed, epoch, index), each of its moves checked against one made by hand."""

from __future__ import annotations

from dataclasses import replace

import skin.data.augment as chapter
from skin.data.augment import (
    GREY,
    MEAN,
    STANDARD,
    Augmentation,
    affine,
    augment,
    by_quarters,
    colour,
    cut_out,
    generator,
)  # fmt: skip
from skin.data.images import centre_crop

import numpy as np
import pytest

SIZE = 16
STILL = (0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9)  # the ten draws that move nothing


@pytest.fixture
def stored() -> np.ndarray:
    """Noise, 24 high and 30 wide: no move of it looks like another."""
    return np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)


class Drawn:
    """A generator that draws what it is told."""

    def __init__(self, draw: tuple[float, ...]) -> None:
        self.draw = np.array(draw)

    def random(self, count: int) -> np.ndarray:
        assert count == len(self.draw)
        return self.draw


# The ranges that the expected values below were worked out for; the recipe's own may change.
WORKED = Augmentation(exact=0.5, zoom=1.2, shift=0.08, brightness=0.15, contrast=0.2, saturation=0.2)


def drawn(monkeypatch: pytest.MonkeyPatch, image: np.ndarray, ranges: Augmentation = WORKED, **draws: float):
    """The view of an image whose draws are `STILL` but for those named by their place (`_2=0.25`)."""
    draw = list(STILL)
    for place, value in draws.items():
        draw[int(place[1:])] = value
    monkeypatch.setattr(chapter, "generator", lambda *key: Drawn(tuple(draw)))
    return augment(image, SIZE, (0, 0, 0), ranges=ranges)


def test_the_same_key_gives_the_same_bytes_and_any_other_key_others(stored: np.ndarray) -> None:
    before = stored.copy()
    view = augment(stored, SIZE, (7, 3, 11))
    assert view.shape == (SIZE, SIZE, 3)
    assert view.dtype == np.uint8
    assert np.array_equal(view, augment(stored, SIZE, (7, 3, 11)))
    for other in [(8, 3, 11), (7, 4, 11), (7, 3, 12), (11, 3, 7)]:
        assert not np.array_equal(view, augment(stored, SIZE, other)), other
    assert np.array_equal(stored, before)


def test_a_draw_knows_nothing_of_the_draws_before_it(stored: np.ndarray) -> None:
    forwards = [augment(stored, SIZE, (0, 0, index)) for index in range(8)]
    np.random.default_rng().random(5)  # a running state that must not matter
    backwards = [augment(stored, SIZE, (0, 0, index)) for index in reversed(range(8))]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert np.array_equal(one, other)


def test_the_view_is_written_where_it_is_asked_for(stored: np.ndarray) -> None:
    batch = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    augment(stored, SIZE, (0, 0, 5), out=batch[1])
    assert np.array_equal(batch[1], augment(stored, SIZE, (0, 0, 5)))
    assert not batch[0].any()
    assert not batch[2].any()


def test_the_largest_seed_epoch_and_index_have_a_stream_of_their_own() -> None:
    keys = [(0, 0, 0), (2**63 - 1, 2**23, 2**39), (2**63 - 1, 2**23, 2**39 - 1)]
    draws = {generator(*key).random() for key in keys}
    assert len(draws) == 3


def test_a_draw_that_moves_nothing_is_the_centre_crop(monkeypatch: pytest.MonkeyPatch, stored: np.ndarray) -> None:
    assert np.array_equal(drawn(monkeypatch, stored), centre_crop(stored, SIZE))


def test_flips(monkeypatch: pytest.MonkeyPatch, stored: np.ndarray) -> None:
    crop = centre_crop(stored, SIZE)
    assert np.array_equal(drawn(monkeypatch, stored, _0=0.5), crop[:, ::-1])
    assert np.array_equal(drawn(monkeypatch, stored, _1=0.5), crop[::-1])
    assert np.array_equal(drawn(monkeypatch, stored, _0=0.5, _1=0.5), crop[::-1, ::-1])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns(monkeypatch: pytest.MonkeyPatch, stored: np.ndarray, turns: int) -> None:
    view = drawn(monkeypatch, stored, _2=turns / 4)
    assert np.array_equal(view, np.rot90(centre_crop(stored, SIZE), turns))


def test_a_flip_comes_before_the_turn(monkeypatch: pytest.MonkeyPatch, stored: np.ndarray) -> None:
    view = drawn(monkeypatch, stored, _0=0.5, _2=0.25)
    assert np.array_equal(view, np.rot90(centre_crop(stored, SIZE))[:, ::-1])


def test_a_shift_moves_the_crop_by_whole_pixels(monkeypatch: pytest.MonkeyPatch, stored: np.ndarray) -> None:
    quarter = replace(WORKED, shift=0.25)  # 4 of 16 pixels; the crop stands at (4, 7) of the stored image
    right = drawn(monkeypatch, stored, quarter, _4=1.0)
    assert np.array_equal(right, stored[4:20, 11:27])
    up = drawn(monkeypatch, stored, quarter, _5=0.0)
    assert np.array_equal(up, stored[0:16, 7:23])


@pytest.mark.parametrize("turn", [0.02, 0.23, 0.48, 0.77])  # of a circle: near 0, 90, 180 and 270 degrees
def test_half_of_the_views_take_pixels_to_pixels(
    monkeypatch: pytest.MonkeyPatch, stored: np.ndarray, turn: float
) -> None:
    still = replace(WORKED, shift=0.0)
    view = drawn(monkeypatch, stored, still, _2=turn, _3=1.0, _9=0.49)
    quarters = round(4 * turn)
    around = [stored[y : y + SIZE, x : x + SIZE] for y in (3, 4, 5) for x in (6, 7, 8)]  # half a pixel either way
    assert any(np.array_equal(view, np.rot90(crop, quarters)) for crop in around)
    assert not np.array_equal(view, drawn(monkeypatch, stored, still, _2=turn, _3=1.0, _9=0.5))


def test_an_exact_view_is_turned_by_the_nearest_quarter_and_keeps_its_flip() -> None:
    for draw in np.random.default_rng(0).random((200, 6)):
        free = affine(draw, 24, 30, SIZE, WORKED, SIZE)
        exact = by_quarters(free, SIZE, SIZE)
        assert np.array_equal(exact, np.rint(exact))
        pace = np.sqrt(abs(np.linalg.det(free[:, :2])))
        between = exact[:, :2] @ free[:, :2].T / pace  # a rotation by what is left, at most 45 degrees
        assert np.linalg.det(between) == pytest.approx(1)
        assert between[0, 0] >= np.sqrt(0.5) - 1e-9
        middle = np.array([7.5, 7.5, 1.0])
        assert np.abs(exact @ middle - free @ middle).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("exact", [0.0, 1.0])
def test_a_smaller_view_shows_the_same_piece_of_the_image(exact: float) -> None:
    """Of smooth waves: what noise would lose by fewer pixels is not what is asked here."""
    y, x = np.mgrid[0:120, 0:160] / 25
    waves = (127 + 60 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2)).astype(np.uint8)
    ranges = replace(WORKED, exact=exact)
    for index in range(20):
        large = augment(waves, 96, (0, 0, index), ranges=ranges)
        small = augment(waves, 48, (0, 0, index), ranges=ranges, span=96)
        halved = large.reshape(48, 2, 48, 2, 3).mean((1, 3))
        assert np.abs(small - halved).max() < 8
        assert np.abs(small - halved).mean() < 1.5


@pytest.mark.parametrize(("draw", "pace"), [(1.0, WORKED.zoom), (0.5, 1.0), (0.0, 1 / WORKED.zoom)])
def test_zoom_changes_how_far_apart_pixels_are_read(draw: float, pace: float) -> None:
    matrix = affine(np.array([0, 0, 0, draw, 0.5, 0.5]), 24, 30, SIZE, WORKED, SIZE)
    assert matrix[:, :2] == pytest.approx(pace * np.eye(2))
    assert matrix @ [7.5, 7.5, 1] == pytest.approx([14.5, 11.5])  # centre to centre, whatever the zoom


def test_a_ramp_stays_a_ramp_of_the_zooms_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.repeat((8 * np.arange(30, dtype=np.uint8))[None, :, None], 24, axis=0).repeat(3, axis=2)
    view = drawn(monkeypatch, ramp, _3=1.0)[8, :, 0].astype(float)
    by_hand = 8 * (14.5 + 1.2 * (np.arange(SIZE) - 7.5))
    assert np.abs(view - by_hand).max() <= 1  # OpenCV reads at 1/32 of a pixel


def test_what_comes_in_from_beyond_the_edge_is_the_picture() -> None:
    plain = np.full((20, 20, 3), 200, np.uint8)
    for index in range(20):
        view = augment(plain, SIZE, (0, 0, index), ranges=Augmentation(brightness=0, contrast=0, saturation=0))
        assert (view == 200).all()  # no black corners


def test_grey_stays_grey() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (24, 30, 1), np.uint8).repeat(3, axis=2)
    for index in range(50):
        view = augment(grey, SIZE, (0, 0, index))
        assert np.ptp(view, axis=2).max() <= 1  # OpenCV has ten bits for a factor


@pytest.mark.parametrize(
    ("draw", "level", "expected"),
    [
        ((0.5, 0.5), 0, 0),  # nothing moves
        ((0.5, 0.5), 77, 77),
        ((0.5, 0.5), 255, 255),
        ((1.0, 0.5), 0, 19),  # brighter by 0.15 of 128 = 19.2
        ((1.0, 0.5), 100, 119),
        ((1.0, 0.5), 250, 255),
        ((0.0, 0.5), 100, 81),
        ((0.0, 0.5), 10, 0),
        ((0.5, 1.0), 200, 214),  # 127.5 + 1.2 * 72.5 = 214.5, to even
        ((0.5, 1.0), 0, 0),  # 127.5 - 1.2 * 127.5 is below 0
        ((0.5, 0.0), 0, 26),  # 127.5 - 0.8 * 127.5 = 25.5, to even
        ((0.5, 0.0), 255, 230),  # 229.5, to even
        ((1.0, 1.0), 100, 114),  # 127.5 - 1.2 * 27.5 + 19.2 = 113.7
    ],
)
def test_brightness_and_contrast_by_hand(
    monkeypatch: pytest.MonkeyPatch, draw: tuple[float, float], level: int, expected: int
) -> None:
    affine_map = colour(np.array([*draw, 0.5]), WORKED)
    assert abs(np.clip(affine_map @ [level, level, level, 1], 0, 255) - expected).max() <= 0.5 + 1e-4
    view = drawn(monkeypatch, np.full((24, 30, 3), level, np.uint8), _6=draw[0], _7=draw[1])
    assert np.abs(view.astype(int) - expected).max() <= 1  # OpenCV has ten bits for a factor


def test_saturation_by_hand() -> None:
    stronger = colour(np.array([0.5, 0.5, 1.0]), WORKED)
    assert stronger[0] == pytest.approx([1.2 - 0.2 * 0.299, -0.2 * 0.587, -0.2 * 0.114, 0])
    assert stronger.sum(1) == pytest.approx([1, 1, 1])
    same = colour(np.array([0.5, 0.5, 0.5]), WORKED)
    assert np.array_equal(same, np.eye(3, 4))


def test_no_saturation_left_is_luma(monkeypatch: pytest.MonkeyPatch) -> None:
    red = np.zeros((24, 30, 3), np.uint8)
    red[..., 0] = 255
    view = drawn(monkeypatch, red, replace(WORKED, saturation=1.0), _8=0.0)
    assert (view == 76).all()  # 0.299 * 255 = 76.2
    assert GREY.sum() == pytest.approx(1)


def test_strength_one_changes_no_bit_of_the_ranges_and_zero_leaves_no_range() -> None:
    assert STANDARD.scaled(1.0) == STANDARD
    assert STANDARD.scaled(0.0) == Augmentation(0, 0, 1, 1, 0, 0, 0, 0)
    twice = STANDARD.scaled(2.0)
    assert (twice.flip, twice.rotation, twice.exact) == (0.5, 1, 0.5)  # more than that there is not
    assert (twice.zoom, twice.shift, twice.contrast) == pytest.approx((1.15**2, 0.1, 0.2))


def test_at_strength_zero_every_view_is_the_centre_crop(stored: np.ndarray) -> None:
    crop = centre_crop(stored, SIZE)
    for index in range(50):
        assert np.array_equal(augment(stored, SIZE, (0, 0, index), ranges=STANDARD.scaled(0.0)), crop)


@pytest.mark.parametrize(("draw", "turned"), [(0.0, 0.0), (0.4, 0.1), (0.6, 0.9), (0.999, 0.99975)])
def test_at_a_quarter_of_the_strength_a_view_turns_by_a_quarter_of_the_angle(draw: float, turned: float) -> None:
    matrix = affine(np.array([0, 0, draw, 0.5, 0.5, 0.5]), 24, 30, SIZE, STANDARD.scaled(0.25), SIZE)
    angle = 2 * np.pi * turned
    by_hand = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert matrix[:, :2] == pytest.approx(np.array(by_hand))


def test_every_draw_uses_its_whole_range() -> None:
    draws = np.array([generator(0, 0, index).random(10) for index in range(2000)])
    assert np.abs(draws.mean(0) - 0.5).max() < 0.03
    assert draws.min() < 0.002
    assert draws.max() > 0.998
    assert np.abs(np.corrcoef(draws.T) - np.eye(10)).max() < 0.1


# ---- cutout ---------------------------------------------------------------------------------------------


def test_cutout_hides_a_square_of_half_of_the_views_and_changes_nothing_else(stored: np.ndarray) -> None:
    hiding, hidden = replace(STANDARD, cutout=0.5), 0
    for index in range(60):
        whole, view = (augment(stored, SIZE, (0, 0, index), ranges=ranges) for ranges in (STANDARD, hiding))
        gone = (view != whole).any(2)
        if not gone.any():
            continue
        hidden += 1
        assert (view[gone] == MEAN).all()
        rows, columns = (np.flatnonzero(gone.any(axis)) for axis in (1, 0))
        assert len(rows) <= SIZE // 2
        assert len(columns) <= SIZE // 2
    assert 18 <= hidden <= 42


def test_a_square_in_the_middle_by_hand() -> None:
    view = np.zeros((8, 8, 3), np.uint8)
    cut_out(view, 0.5, np.array([0.5, 0.25]))  # rows 2 to 5, columns 0 to 3
    expected = np.zeros((8, 8), bool)
    expected[2:6, 0:4] = True
    assert np.array_equal((view == MEAN).all(2), expected)


def test_no_augmentation_is_no_cutout_and_a_stronger_one_hides_no_more() -> None:
    ranges = replace(STANDARD, cutout=0.4)
    assert ranges.scaled(0).cutout == 0
    assert ranges.scaled(2).cutout == 0.4
