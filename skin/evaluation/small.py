"""Write the smallest ONNX file that still answers like the full one: `predict.py --export FILE --small`.

Each way of `skin.model.reduced.WAYS` is tried and judged on the run's validation images, which it has not seen. One
that changes answers is not written, whatever its size.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from skin.data.class_names import readable_name
from skin.data.images import centre_crop, read_image
from skin.evaluation import metrics, test_set
from skin.evaluation.test_set import UNKNOWN
from skin.model import export, reduced
from skin.model.calibration import divisors
from skin.model.checkpoint import Checkpoint, load_best
from skin.utils import console, files, text_table
from skin.utils.errors import UserError, printable

import numpy as np
from rich.console import Console

AGREEMENT, SENSITIVITY, CALIBRATION = 0.99, 0.01, 0.01  # the limits of the gate, see `Damage`
FEW = 100  # validation images, of which one changed answer is more than a hundredth
TRAINING = 32  # images that tell the ranges of activations
_BATCH, _CALLS = 16, 10
_ROUNDING = 1e-9  # 0.99 - 0.98 is a little more than 0.01


class Answers(NamedTuple):
    """A file's answers to the validation images: probabilities float32 [N, C], distance float32 [N]."""

    probabilities: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class Damage:
    """The changes of a smaller file, compared with the full one.

    Attributes:
        agreement: share of the images that keep their class.
        flags: share of the images that stay, or do not become, unlike the training images.
        sensitivity_loss: of the class that loses most; `worst` is its name.
        calibration_loss: by which the expected calibration error is larger.
    """

    images: int
    agreement: float
    flags: float
    sensitivity_loss: float
    worst: str
    calibration_loss: float

    @property
    def reasons(self) -> list[str]:
        """The reasons not to use the file; none if it passes. An answer is its class and its flag."""
        found = []
        if not self.agreement >= AGREEMENT - _ROUNDING:
            found.append(f"keeps {_percent(self.agreement)} of the classes")
        if not self.flags >= AGREEMENT - _ROUNDING:
            found.append(f"keeps {_percent(self.flags)} of the flags")
        if not self.sensitivity_loss <= SENSITIVITY + _ROUNDING:
            found.append(f"loses {self.sensitivity_loss:.3f} of the sensitivity of {self.worst}")
        if not self.calibration_loss <= CALIBRATION + _ROUNDING:
            found.append(f"adds {self.calibration_loss:.3f} to the calibration error")
        return found


@dataclass
class Candidate:
    """A file that was tried. Without damage it is out of the question, for `reason`."""

    name: str
    content: bytes = b""
    reason: str = ""
    milliseconds: float = math.nan  # of an answer to one image, on all cores
    damage: Damage | None = None

    @property
    def mib(self) -> float:
        return len(self.content) / 2**20

    @property
    def verdict(self) -> str:
        if self.damage is None:
            return self.reason
        return ", ".join(self.damage.reasons) or "passes"


class Images(NamedTuple):
    """The images of a gate: paths, and the labels of those to judge on."""

    validation: Sequence[str]
    labels: np.ndarray  # int64 [N]
    training: Sequence[str]  # for the ranges of activations; never those of the validation


def export_small(
    checkpoint_path: Path, path: Path, data: Path | None, labels: Path | None, say: Callable[[str], Any]
) -> str:
    """Write the smallest file that passes to `path`, as `export.export` writes the full one; return a line on it.

    The metadata's `reduction` holds, as JSON, the way, the limits and what was measured.

    A model with metadata is judged, and the ranges of its activations are taken, as if all of them were missing.

    Args:
        data: validation images; None is the run's own. labels: a table for them.
        say: takes the lines of the table, and how far the work is.

    Raises:
        UserError: as `export.export`, or there are no validation images, or no smaller file passes; none is written.
    """
    export.require_packages()
    checkpoint = load_best(checkpoint_path)
    images = images_of(checkpoint, data, labels, say)
    full = Candidate("float32 (full)", export.as_onnx(checkpoint)[0])
    squares = _squares(checkpoint, images.training)
    found = [_made(way, full.content, squares, say) for way in reduced.WAYS]
    judge(checkpoint, [full, *found], images)
    say("\n".join(table([full, *found], None if not sys.stdout.isatty() else Console().width)))
    best, with_metadata = choose(full, found), checkpoint.encoder is not None
    files.write_atomically(reduced.with_metadata(best.content, _metadata(checkpoint, best)), path)
    return (
        f"wrote {path}: {checkpoint.model_name}, {len(checkpoint.classes)} classes, {best.name}, {best.mib:.1f} MiB "
        f"of the full file's {full.mib:.1f}; {best.damage and _percent(best.damage.agreement)} of "
        f"{len(images.labels):,} validation answers are the same{', with all metadata missing' * with_metadata}"
    )


def choose(full: Candidate, found: Sequence[Candidate]) -> Candidate:
    """Return the smallest candidate that passes.

    Raises:
        UserError: none does, or none is smaller than the full file.
    """
    judged = [it for it in found if it.damage is not None]
    passing = [it for it in judged if not it.damage.reasons and len(it.content) < len(full.content)]  # type: ignore[union-attr]
    if passing:
        return min(passing, key=lambda it: len(it.content))
    remedy = f"leave out --small for the full file of {full.mib:.1f} MiB"
    if not judged:
        raise UserError(f"no smaller file could be made ({found[0].reason}); {remedy}")
    nearest = max(judged, key=lambda it: it.damage.agreement)  # type: ignore[union-attr]
    raise UserError(
        f"no smaller file answers like the full one; the nearest, {nearest.name} ({nearest.mib:.1f} MiB), "
        f"{nearest.verdict if nearest.damage and nearest.damage.reasons else 'is no smaller'}; {remedy}"
    )


# ---- the images -------------------------------------------------------------------------------------------------


def images_of(
    checkpoint: Checkpoint, data: Path | None, labels: Path | None, say: Callable[[str], Any]
) -> Images:
    """Return the validation images of a checkpoint's run, or of another set, and some training images of that.

    A set without splits is all validation: none of its images tells the ranges of activations.

    Raises:
        UserError: there is no validation image of a class that the model knows.
    """
    found = test_set.read(checkpoint, data, labels, "all", allow_missing=True)
    if not found.own:
        for line in found.warnings:
            say(f"WARNING: {line}")
    split, paths = found.rows["split"].to_numpy(), found.rows["path"].to_numpy()
    chosen = split == ("val" if (split != "").any() else "")
    chosen &= found.labels != UNKNOWN
    if found.own:
        chosen &= ~test_set.trained_on_by_others(checkpoint, found.rows["image"])
    if not chosen.any():
        judged, none = "--small is judged on validation images", f"{found.root} has none"
        if found.own:  # of folds: each trains on the others' validation images
            none = f"{found.root} has none left out of training but the test split"
        raise UserError(f"{judged}, and {none}: name another labelled set by --data DIR")
    training = paths[split == "train"]
    some = training[np.unique(np.linspace(0, len(training) - 1, TRAINING).astype(int))] if len(training) else []
    number = int(chosen.sum())
    say(f"judged on {number:,} validation images of {found.name}" + (
        "; so few hide a rare change of an answer" if number < FEW else ""
    ))  # fmt: skip
    unseen = sorted(set(range(len(checkpoint.classes))) - set(found.labels[chosen].tolist()))
    if unseen:
        names = ", ".join(readable_name(checkpoint.classes[c]) for c in unseen)
        say(f"no validation image of {names}: that sensitivity is not judged")
    return Images(paths[chosen].tolist(), found.labels[chosen], list(some))


def _squares(checkpoint: Checkpoint, paths: Sequence[str]) -> np.ndarray:
    """Return images as the file takes them, uint8 [N, S, S, 3]. Raises `ImageError`."""
    size = checkpoint.preprocess.image_size
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(lambda path: centre_crop(read_image(path, checkpoint.preprocess), size), paths))
    return np.stack(read) if read else np.zeros((0, size, size, 3), np.uint8)


# ---- trying and judging -----------------------------------------------------------------------------------------


def _made(way: reduced.Way, content: bytes, squares: np.ndarray, say: Callable[[str], Any]) -> Candidate:
    if way.calibrated and not len(squares):
        return Candidate(way.name, reason="not tried: the set has no training images")
    say(f"trying {way.name}")
    try:
        return Candidate(way.name, way.reduce(content, squares))
    except Exception as error:  # a version of onnxruntime that cannot do it: the other ways remain
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Candidate(way.name, reason=f"failed: {printable(reason, limit=60)}")


def judge(checkpoint: Checkpoint, candidates: Sequence[Candidate], images: Images) -> None:
    """Give each candidate that was made its time and, but for the first, which is the full file, its damage."""
    import onnxruntime

    made = [it for it in candidates if it.content]
    sessions = [onnxruntime.InferenceSession(it.content, providers=["CPUExecutionProvider"]) for it in made]
    found: list[list[Answers]] = [[] for _ in made]
    with console.progress(Console(file=sys.stderr), "judge", len(images.validation)) as advance:
        for squares in _batches(checkpoint, images.validation):
            for session, answers in zip(sessions, found, strict=True):
                answers.append(_ask(session, squares))
            advance(len(squares))
    for it, session in zip(made, sessions, strict=True):
        it.milliseconds = _milliseconds(session, squares[:1])
    apart = divisors(checkpoint.calibration, len(checkpoint.classes))
    full, *others = (Answers(*map(np.concatenate, zip(*answers, strict=True))) for answers in found)
    for it, small in zip(made[1:], others, strict=True):
        if np.isfinite(small.probabilities).all():
            it.damage = damage(checkpoint.classes, images.labels, full, small, apart)
        else:
            it.reason = "refused: its probabilities are not finite"


def _batches(checkpoint: Checkpoint, paths: Sequence[str]) -> Iterator[np.ndarray]:
    for first in range(0, len(paths), _BATCH):
        yield _squares(checkpoint, paths[first : first + _BATCH])


def _ask(session: Any, squares: np.ndarray) -> Answers:
    return Answers(*export.ask(session, ["probabilities", "distance"], squares))


def _milliseconds(session: Any, square: np.ndarray) -> float:
    """Return the median time of an answer."""
    taken = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        _ask(session, square)
        taken.append(1000 * (time.perf_counter() - begin))
    return float(np.median(taken))


def damage(
    classes: Sequence[str], labels: np.ndarray, full: Answers, small: Answers, divisors: np.ndarray | float = 1.0
) -> Damage:
    """Return what changes from the full file's answers to the small one's. A class without images does not count.

    Args:
        divisors: [C], of the decision rule (`skin.model.calibration`).
    """
    before, after = (answers.probabilities / divisors for answers in (full, small))
    lost = np.nan_to_num(
        metrics.value("sensitivity", labels, before) - metrics.value("sensitivity", labels, after)
    )
    error = "expected_calibration_error"
    added = metrics.value(error, labels, small.probabilities) - metrics.value(error, labels, full.probabilities)
    same = after.argmax(1) == before.argmax(1)
    return Damage(
        images=len(labels), agreement=float(same.mean()),
        flags=float(((small.distance <= 1) == (full.distance <= 1)).mean()),
        sensitivity_loss=float(lost.max()), worst=readable_name(classes[int(lost.argmax())]),
        calibration_loss=float(added),
    )  # fmt: skip


# ---- shown and written ------------------------------------------------------------------------------------------


def table(candidates: Sequence[Candidate], width: int | None) -> list[str]:
    """Return the lines of the table: size, speed and damage of each candidate."""

    def column(title: str, of: Callable[[Damage], str], rank: int) -> text_table.Numbers:
        return text_table.Numbers(title, [of(it.damage) if it.damage else "" for it in candidates], rank)

    columns = [
        text_table.Numbers("MiB", [f"{it.mib:.1f}" if it.content else "" for it in candidates], 0),
        text_table.Numbers("ms", [f"{it.milliseconds:.1f}" if it.content else "" for it in candidates], 3),
        column("class kept", lambda d: _percent(d.agreement), 0),
        column("flag kept", lambda d: _percent(d.flags), 4),
        column("sensitivity", lambda d: f"{-d.sensitivity_loss:+.3f}", 1),
        column("calib. error", lambda d: f"{d.calibration_loss:+.3f}", 2),
    ]
    lines = text_table.table("file", [it.name for it in candidates], columns, width, indent=0)
    return [*lines, *(f"{it.name}: {it.verdict}" for it in candidates[1:])]


def _percent(share: float) -> str:
    """Return a share in percent, rounded down: 99.97 % of the answers is not all of them."""
    return f"{math.floor(1000 * share + _ROUNDING) / 10:.1f} %"


def _metadata(checkpoint: Checkpoint, best: Candidate) -> dict[str, str]:
    assert best.damage is not None
    limits = {"agreement": AGREEMENT, "sensitivity_loss": SENSITIVITY, "calibration_loss": CALIBRATION}
    reduction = {"way": best.name, **asdict(best.damage), "limits": limits}
    return {**export.metadata(checkpoint), "reduction": json.dumps(reduction)}
