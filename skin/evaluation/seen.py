"""Tell which images of a set a model has seen, by the split.csv of its run, and why a comparison is unfair then."""

from __future__ import annotations

from collections.abc import Sequence

from skin.utils.errors import printable

import pandas as pd

UNTOLD = "no split.csv beside the checkpoint, so nobody knows if it was trained on these images"
TELLING = 8  # characters of a name that does not come about twice by chance, as P01 does


def unfair(ours: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Return why a comparison of two models is not fair, and why that is not known, each with its facts.

    Args:
        ours, others: what `TestSet.seen` and `seen_by` warn of each.
    """
    seen: list[str] = []
    untold: list[str] = []
    for model, warnings in (("This model", ours), ("The other model", others)):
        if facts := [warning for warning in warnings if warning != UNTOLD]:
            seen.append(f"{model}: {'; '.join(facts)}.")
        if UNTOLD in warnings:
            untold.append(f"{model}: {UNTOLD}.")
    said = (("This comparison is not fair", seen), ("Whether this comparison is fair is not known", untold))
    return tuple(f"{fair}. {' '.join(facts)}" for fair, facts in said if facts)


def seen_by_names(part: pd.DataFrame, manifest: pd.DataFrame | None) -> list[str]:
    """Return the warnings of `seen_in_training` by a split.csv alone, of the same data or of others."""
    return seen_in_training(part, manifest, manifest is not None and has_all(manifest, part))


def has_all(manifest: pd.DataFrame, part: pd.DataFrame) -> bool:
    """Return True if a split.csv names every image just so: it is of the same data."""
    return bool(part["image"].isin(manifest["image"]).all())


def seen_in_training(
    part: pd.DataFrame, manifest: pd.DataFrame | None, own: bool, copies: pd.Series | None = None
) -> list[str]:
    """Return warnings for images that the model was trained on, or that helped to choose and calibrate it.

    `copies` names, for each row, the run's image that is the same picture, whatever its name; "" is none.
    """
    if manifest is None:
        return [UNTOLD]
    warnings = []
    seen = {side: of_side(part, manifest, side, own, copies) for side in ("train", "val")}
    related = own or any(images.any() for images in seen.values())
    for side, what in (
        ("train", "TRAINED ON: the metrics do not tell how the model does on new images"),
        ("val", "used to choose and calibrate the model: the metrics are too good"),
    ):
        kin = _of_groups(part, manifest, side, plain=related) & ~seen[side]
        if seen[side].any():
            warnings.append(f"{int(seen[side].sum()):,} of {len(part):,} images were {what}")
        if kin.any():
            count = f"{int(kin.sum()):,}{' more' if seen[side].any() else ''} of {len(part):,}"
            warnings.append(f"{count} images show lesions or patients of the {side} split")
    return warnings


def alike_by_chance(part: pd.DataFrame, manifest: pd.DataFrame) -> list[str]:
    """Return a note if groups of a set, none of whose images was seen, have plain names that the run's have, too."""
    alike = _of_groups(part, manifest, "train", plain=True) | _of_groups(part, manifest, "val", plain=True)
    if not alike.any():
        return []
    return [
        f"{int(alike.sum()):,} of {len(part):,} images have the names of the run's lesions or patients, such as "
        f"{printable(part.loc[alike, 'group'].iloc[0])}: if they are the same ones, the metrics are too good"
    ]


def of_side(
    part: pd.DataFrame, manifest: pd.DataFrame, side: str, own: bool, copies: pd.Series | None = None
) -> pd.Series:
    """Return which images, bool [N], are in a part of the run, by their names or by `copies`."""
    names = manifest.loc[manifest["split"] == side, "image"]
    seen = part["image"].isin(names)
    if copies is not None:
        seen |= copies.isin(names)
    if not own:  # elsewhere the same picture may stand in a folder or have an ending
        seen |= _stem(part["image"]).isin(set(_stem(names)) - {""})
    return seen


def _of_groups(part: pd.DataFrame, manifest: pd.DataFrame, side: str, plain: bool) -> pd.Series:
    """Return which images, bool [N], are of lesions or patients of a part of the run, with `plain` names or not."""
    used = manifest[manifest["split"] == side]
    groups = set(used["group"]) - set(used["image"])
    return part["group"].isin(groups if plain else {group for group in groups if len(group) >= TELLING})


def _stem(names: pd.Series) -> pd.Series:
    """Return file names without folder and ending; "" for one too plain ("12") to show that two are the same."""
    stems = names.str.replace(r"^.*/", "", regex=True).str.replace(r"\.[A-Za-z]{3,4}$", "", regex=True)
    return stems.where(stems.str.len() >= TELLING, "")
