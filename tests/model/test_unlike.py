import copy

from skin.data import stand_ins
from skin.model import calibration, unlike
from skin.model.unlike import Training

import numpy as np
import pytest

WIDTHS = (6, 10)


def traits_of(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Traits of two early stages of 6 and 10 maps, and 24 pooled features around a mean a class; labels."""
    generator = np.random.Generator(np.random.Philox(seed))
    labels = generator.integers(0, 3, count)
    early = generator.standard_normal((count, sum(WIDTHS))) * np.linspace(1, 5, sum(WIDTHS)) + 3
    pooled = 4 + 2 * np.eye(24)[labels] + 0.2 * generator.standard_normal((count, 24))
    return np.concatenate([early, pooled], 1).astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted() -> unlike.Unlike:
    training = Training(*traits_of(1200, 0), WIDTHS)
    return unlike.fit(*traits_of(800, 1), training)


def test_two_images_in_a_hundred_like_the_others_are_flagged(fitted: unlike.Unlike) -> None:
    flagged = unlike.distance(fitted, traits_of(5000, 2)[0]) > 1
    assert flagged.mean() == pytest.approx(0.02, abs=0.012)


@pytest.mark.parametrize("column", [0, 5, 6, 15, 20])
def test_what_shows_in_one_stage_alone_is_flagged(fitted: unlike.Unlike, column: int) -> None:
    traits, _ = traits_of(200, 3)
    traits[:, column] += 60
    assert (unlike.distance(fitted, traits) > 1).mean() > 0.95


@pytest.mark.parametrize("bare", [True, False], ids=["pooled alone", "all stages"])
def test_where_all_images_look_alike_to_the_network_rounding_flags_none(bare: bool) -> None:
    """A network that has not learned, or answers by metadata, asked in float32, in bfloat16, and folded."""
    generator = np.random.Generator(np.random.Philox(8))
    traits = 0.3 + 1e-8 * generator.standard_normal((400, sum(WIDTHS) + 24))
    labels = generator.integers(0, 3, 400)
    found = unlike.fit(traits[:200], labels[:200], None if bare else Training(traits[200:], labels[200:], WIDTHS))
    rounded = traits * (1 + 2.0**-9)
    for asked in (traits, traits + 1e-6 * generator.standard_normal(traits.shape), rounded):
        assert (unlike.distance(found, asked) <= 1).all()


def test_one_stage_that_sees_nothing_leaves_the_others_their_say() -> None:
    (traits, labels), (others, theirs) = traits_of(1200, 0), traits_of(800, 1)
    for each in (traits, others):
        each[:, : WIDTHS[0]] = 0.5
    found = unlike.fit(others, theirs, Training(traits, labels, WIDTHS))
    far, _ = traits_of(200, 3)
    far[:, : WIDTHS[0]] = 0.5001
    assert (unlike.distance(found, far) > 1).mean() < 0.1
    far[:, 10] += 60
    assert (unlike.distance(found, far) > 1).mean() > 0.95


def test_a_stage_by_hand() -> None:
    traits = np.array([[0.0, 0.0], [2.0, 2.0], [0.0, 2.0], [2.0, 0.0]], np.float32)  # mean and deviation 1
    stage = unlike._fit_stage(traits)
    np.testing.assert_allclose(stage["mean"], [1, 1])
    apart = (np.array([4.0, 1.0]) - stage["mean"].numpy()) @ stage["whitening"].numpy()
    assert np.square(apart).sum() == pytest.approx(9)


def test_the_share_caught_is_kept_by_kind_and_what_passes_is_named(fitted: unlike.Unlike) -> None:
    like, _ = traits_of(50, 4)
    caught = unlike.catch(fitted, {"like": like, "far": like + 100})
    assert caught["far"] == {"images": 50, "flagged": 1.0}
    assert caught["like"]["flagged"] < 0.1
    assert unlike.passing({**fitted, "caught": caught}) == ["like"]
    assert unlike.passing(fitted) == []  # not measured


def test_traits_that_are_no_numbers_are_flagged(fitted: unlike.Unlike) -> None:
    traits, _ = traits_of(3, 5)
    traits[1, 2] = np.nan
    assert (~(unlike.distance(fitted, traits) <= 1)).tolist()[1]


def test_a_calibration_of_an_earlier_version_looks_at_the_pooled_features_alone() -> None:
    traits, labels = traits_of(300, 6)
    made = calibration.fit(np.eye(3)[labels], labels, traits[:, -24:])
    old = copy.deepcopy(made)
    score = np.log(unlike._distance(old["unlike"], traits[:, -24:]))
    for name in ("stages", "scales"):
        del old["unlike"][name]  # type: ignore[misc]
    old["unlike"]["threshold"] = 2.0
    np.testing.assert_allclose(calibration.distance(old, traits), np.exp(score) / 2)
    np.testing.assert_allclose(calibration.distance(made, traits), calibration.distance(made, traits[:, -24:]))


def test_stand_ins_are_a_function_of_the_seed_and_all_different() -> None:
    square = np.full((40, 40, 3), 200, np.uint8)
    made, again = stand_ins.draw(40, [square], count=5), stand_ins.draw(40, [square], count=5)
    assert {"noise", "flat", "text", "documents", "textures", "scenes", "inverted"} <= set(made)
    for kind, pictures in made.items():
        assert pictures.dtype == np.uint8
        assert pictures.shape[1:] == (40, 40, 3)
        np.testing.assert_array_equal(pictures, again[kind])
        if kind != "inverted":
            assert len({picture.tobytes() for picture in pictures}) == len(pictures), kind
    assert (made["inverted"] == 55).all()
    assert "inverted" not in stand_ins.draw(40, count=1)
