"""The audit behind `train.py --check`: the contents of a data folder, and its faults.

Every image is decoded once. Copies are found by their pixels (exact) and by a perceptual hash (near).
Then the set is split exactly as training splits it, and every lesion, patient or copy in two splits is named.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skin.data import unknowns
from skin.data.class_names import readable_name
from skin.data.duplicates import HashCache, in_threads, joined, near_pairs, perceptual_hash
from skin.data.images import ImageError, Preprocess, read_header, read_image
from skin.data.index import Index
from skin.data.split import SPLITS, Leak, leaks, split_index
from skin.utils import text_table
from skin.utils.errors import UserError, printable

import numpy as np
import pandas as pd

_SHOWN = 10  # of each finding, on the terminal; check.json has them all


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture: `bits` is 0 for equal pixels, otherwise the distance of their hashes."""

    exact: bool
    bits: int
    images: tuple[str, str]
    paths: tuple[str, str]
    labels: tuple[str, str]
    groups: tuple[str, str]
    splits: tuple[str, str]

    @property
    def conflict(self) -> bool:
        return self.labels[0] != self.labels[1]

    @property
    def leak(self) -> bool:
        return "" not in self.splits and self.splits[0] != self.splits[1]

    @property
    def within(self) -> bool:
        """Return True if both are of one group, as the data have it."""
        return self.groups[0] == self.groups[1]

    @property
    def kind(self) -> str:
        return "exact copies" if self.exact else f"near copies ({self.bits} of 256 bits apart)"

    def __str__(self) -> str:
        one, other = (
            f"{image} ({', '.join(filter(None, (label, split)))})"
            for image, label, split in zip(self.images, self.labels, self.splits, strict=True)
        )
        return f"{one} and {other}: {self.kind}{', within one group' if self.within else ''}"


@dataclass(frozen=True)
class CheckReport:
    """The findings of a check. `exit_code` is 1 if there is a leak, a conflict, an unreadable file or a fault."""

    index: Index
    rows: pd.DataFrame
    sizes: dict[str, int]
    formats: dict[str, int]
    unreadable: list[tuple[str, str]]  # path, reason
    pairs: list[Pair]
    group_leaks: list[Leak]
    faults: list[str]
    warnings: list[str]

    @property
    def conflicts(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.conflict]

    @property
    def pair_leaks(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.leak]

    @property
    def exit_code(self) -> int:
        return int(bool(self.group_leaks or self.pair_leaks or self.conflicts or self.unreadable or self.faults))

    def counts(self) -> pd.DataFrame:
        """Count the images of each class (rows) in each split (columns `train`, `val`, `test`)."""
        table = pd.crosstab(self.rows["label"], self.rows["split"])
        return table.reindex(index=list(self.index.classes), columns=list(SPLITS), fill_value=0)

    def to_dict(self) -> dict[str, object]:
        """Return the report as check.json has it."""
        index = self.index
        counts = self.counts()
        totals = index.rows["label"].value_counts()
        return {
            "ok": self.exit_code == 0,
            "root": str(index.root),
            "layout": index.layout,
            "source": index.source,
            "columns": index.columns,
            "images": len(index.rows),
            "groups": int(index.rows["group"].nunique()),
            "classes": {
                cls: {"images": int(totals[cls]), **dict(zip(SPLITS, row, strict=True))}
                for cls, row in zip(index.classes, counts.to_numpy().tolist(), strict=True)
            },
            "sizes": self.sizes,
            "formats": self.formats,
            "notes": list(index.notes),
            "warnings": self.warnings,
            "faults": self.faults,
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "rows_without_image": list(index.missing),
            "images_without_row": list(index.unnamed),
            "exact_duplicates": [_as_dict(pair) for pair in self.pairs if pair.exact],
            "near_duplicates": [_as_dict(pair) for pair in self.pairs if not pair.exact],
            "conflicts": [_as_dict(pair) for pair in self.conflicts],
            "leaks": [{"kind": "group", **asdict(leak)} for leak in self.group_leaks]
            + [
                {"kind": "exact duplicate" if pair.exact else "near duplicate", **_as_dict(pair)}
                for pair in self.pair_leaks
            ],
        }

    def lines(self, width: int | None = None) -> list[str]:
        """Return the report as people read it, on a terminal of `width` columns if it is one."""
        index = self.index
        groups = index.rows["group"].nunique()
        lines = [f"{index.root}: {index.layout}, {len(index.rows):,} images, {groups:,} groups"]
        lines += [f"  {note}" for note in index.notes]
        counts = self.counts()
        names = [printable(readable_name(cls)) for cls in index.classes]
        numbers = [
            text_table.Numbers(split, [f"{n:,}" for n in counts[split]], rank) for rank, split in enumerate(SPLITS)
        ]
        lines += text_table.table("class", names, numbers, width, indent=2)
        lines.append("  sizes    " + _most(self.sizes))
        lines.append("  formats  " + _most(self.formats))
        near = [pair for pair in self.pairs if not pair.exact]
        lines += [f"WARNING: {warning}" for warning in self.warnings]
        lines += _section("fault", self.faults)
        lines += _section("unreadable image", [f"{path}: {reason}" for path, reason in self.unreadable])
        lines += _section("row without image", index.missing)
        lines += _section("image without row", index.unnamed)
        lines += _section("pair of exact duplicates", [pair for pair in self.pairs if pair.exact])
        lines += _section("pair of near duplicates in two groups", [pair for pair in near if not pair.within])
        lines += _section("pair of near duplicates within a group", [pair for pair in near if pair.within], 2)
        lines += _section("pair with two labels", self.conflicts)
        lines += _section("leak", [*self.group_leaks, *self.pair_leaks])
        return [*lines, self.verdict]

    @property
    def verdict(self) -> str:
        """Return the number of faults of each kind, in words."""
        found = {
            "leak": len(self.group_leaks) + len(self.pair_leaks),
            "conflict": len(self.conflicts),
            "unreadable image": len(self.unreadable),
            "fault": len(self.faults),
        }
        if not self.exit_code:
            return "no leak, no conflict, no unreadable image"
        return "found " + ", ".join(_plural(number, what) for what, number in found.items() if number)


def check(
    index: Index,
    fractions: tuple[float, float, float],
    seed: int,
    out: Path | None = None,
    *,
    keep_duplicates: bool = False,
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
    balanced: bool = True,
) -> CheckReport:
    """Look at every image of `index` (best read with `keep_going=True`), split them as training does, and compare.

    Args:
        fractions, seed: of the split, as for `split_index`.
        out: the folder to write `check.json` into.
        keep_duplicates: do not join groups that share a near duplicate; the leaks are reported.
        cache: the folder that keeps the perceptual hashes for training (see `join_near_duplicates`).
        progress: called with the number of images just looked at.
        balanced: training weighs the classes in the loss (see `unknowns.of_split`).

    Raises:
        UserError: no image can be read at all, or `out` cannot be written.
    """
    fingerprints, unreadable = _fingerprints(index, cache, progress)
    readable = index.rows["path"].isin(fingerprints)
    if not readable.any():
        raise UserError(f"{index.root}: none of {len(index.rows):,} images can be read; {'; '.join(unreadable[0])}")
    rows = index.rows[readable].reset_index(drop=True)
    present = set(rows["label"])
    kept = replace(index, rows=rows, classes=tuple(cls for cls in index.classes if cls in present))
    pairs, bits = _same_pictures([fingerprints[path] for path in rows["path"]])
    faults = list(index.faults)
    together = kept if keep_duplicates else joined(kept, pairs)
    found = list(index.warnings)
    try:
        split = split_index(together, fractions, seed)
        found += unknowns.of_split(split, kept.classes, balanced)
    except UserError as error:
        faults.append(f"cannot be split: {error}")
        split = together.rows
    own = rows.assign(split=split["split"])  # with the groups as the data have them
    report = CheckReport(
        index=together,
        rows=split,
        sizes=_tally(f"{one.width}x{one.height}" for one in fingerprints.values()),
        formats=_tally(one.format for one in fingerprints.values()),
        unreadable=unreadable,
        pairs=[_pair(own, *numbers) for numbers in zip(bits.tolist(), *pairs.T.tolist(), strict=True)],
        group_leaks=leaks(own),
        faults=faults,
        warnings=found,
    )
    if out is not None:
        _write(report, out)
    return report


@dataclass(frozen=True)
class _Fingerprint:
    """One image's size, format, digest of its pixels (16 bytes) and perceptual hash (uint64 [4])."""

    width: int
    height: int
    format: str
    digest: bytes
    hash: np.ndarray


def _fingerprints(
    index: Index, cache: Path | None, progress: Callable[[int], None] | None
) -> tuple[dict[str, _Fingerprint], list[tuple[str, str]]]:
    """Return the fingerprints of the images that can be read, by path, and the others as (path, reason)."""
    kept = HashCache(cache, index.root)
    paths = index.rows["path"].tolist()

    def fingerprint(path: str) -> _Fingerprint | str:
        try:
            width, height, kind = read_header(path)
            # If its own size is asked for, an image is decoded whole and not resized.
            whole = Preprocess(1, min(width, height), "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
            pixels = read_image(path, whole)
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=b"%dx%d" % pixels.shape[1::-1]).digest()
            found = kept.get(path)
            # Not of `pixels`: reduced decoding, transparency and turns change a few bits. The split must be the
            # same if a check or a training run has hashed an image first.
            found = kept.add(path, perceptual_hash(path)) if found is None else found
            return _Fingerprint(width, height, kind, digest, found)
        except ImageError as error:
            return error.reason

    fingerprints: dict[str, _Fingerprint] = {}
    unreadable = []
    for path, found in zip(paths, in_threads(fingerprint, paths, progress), strict=True):
        if isinstance(found, str):
            unreadable.append((path, found))
        else:
            fingerprints[path] = found
    kept.save()
    return fingerprints, unreadable


def _same_pictures(fingerprints: list[_Fingerprint]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of images (int64 [M, 2]) that show the same picture, and their distances in bits (int64 [M]).

    Images of equal pixels come first, -1 bits apart, each paired with the next alone.
    """
    digests = pd.factorize(np.array([one.digest for one in fingerprints], dtype="V16"))[0]
    near, bits = near_pairs(np.ma.array([one.hash for one in fingerprints]))
    apart = digests[near[:, 0]] != digests[near[:, 1]]
    order = np.argsort(digests, kind="stable")
    equal = np.flatnonzero(np.diff(digests[order]) == 0)
    exact = np.stack([order[equal], order[equal + 1]], axis=1)
    return np.concatenate([exact, near[apart]]), np.concatenate([np.full(len(exact), -1), bits[apart]])


def _pair(rows: pd.DataFrame, bits: int, one: int, other: int) -> Pair:
    columns = (rows[name] for name in ("image", "path", "label", "group", "split"))
    image, path, label, group, split = ((str(c.iat[one]), str(c.iat[other])) for c in columns)
    return Pair(bits < 0, max(0, bits), image, path, label, group, split)


def _as_dict(pair: Pair) -> dict[str, object]:
    return {name: value for name, value in asdict(pair).items() if name not in ("paths", "exact")}


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _most(tally: dict[str, int]) -> str:
    shown = [f"{name} ({number:,})" for name, number in list(tally.items())[:4]]
    more = len(tally) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _section(what: str, found: Sequence[object], shown: int = _SHOWN) -> list[str]:
    """Return a line with the number of findings and a line for each of the first; no line if there are none."""
    if not found:
        return []
    lines = [_plural(len(found), what), *(f"  {printable(item, 300)}" for item in found[:shown])]
    return lines if len(found) <= shown else [*lines, f"  and {len(found) - shown:,} more"]


def _plural(number: int, what: str) -> str:
    noun, space, rest = what.partition(" of " if " of " in what else " with")
    return f"{number:,} {what}" if number == 1 else f"{number:,} {noun}s{space}{rest}"


def _write(report: CheckReport, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (out / "check.json").write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror}; name another folder") from error


def ranked(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with leaks and conflicts before copies within one group."""
    return sorted(pairs, key=lambda pair: (not pair.leak, not pair.conflict, pair.within, not pair.exact, pair.bits))
