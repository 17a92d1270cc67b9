"""check.html: the audit of a data folder on one page that needs nothing else.

It names files relative to the data folder, never where that folder lies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skin.data import thumbnails
from skin.data.audit import CheckReport, Pair, ranked
from skin.data.class_names import readable_name
from skin.data.duplicates import in_threads
from skin.data.images import ImageError
from skin.data.index import COLUMNS
from skin.data.split import SPLITS, Leak
from skin.data.suspicious import Suspicion, suspicions
from skin.evaluation.pages import Context, as_base64, in_html, render

import numpy as np
from markupsafe import Markup

# With these numbers even pictures of pure noise stay below 5 MB.
_FULL_CLASSES = 40  # classes with examples; the suspicious ones first, then the largest
_EXAMPLES = 8  # of a class
_SIDE = 128  # of an example, in pixels
_PAIRS = 24
_LEAKS = 12
_PAIR_SIZE = (240, 180)
_LISTED = 500  # lines of a list; check.json has them all
_NAMED = 40  # classes of one suspicion
_TALLIED = 8  # sizes and formats


@dataclass(frozen=True)
class Advice:
    """The way to go on: the command that trains, the errors to mend before, and how long it would take."""

    command: str
    to_mend: Sequence[str]
    duration: Sequence[str]


def html(report: CheckReport, advice: Advice, seed: int) -> str:
    """Return the page; `seed` chooses the examples of the classes."""
    context = _without_root(_context(report, advice, seed), report.index.root)
    return render("check.html", context | {"command": advice.command}, in_html)


def _context(report: CheckReport, advice: Advice, seed: int) -> Context:
    index, counts = report.index, report.counts()
    images = index.rows["label"].value_counts()
    odd = suspicions(counts, images)
    totals = counts.sum()
    return {
        "name": index.root.name or "data",
        "ok": report.exit_code == 0,
        "verdict": report.verdict,
        "images": len(index.rows),
        "groups": int(index.rows["group"].nunique()),
        "layout": index.layout,
        "source": index.source,
        "columns": index.columns,
        "grouped": bool((index.rows["group"] != index.rows["image"]).any()),
        "brought": [split for split in SPLITS if (index.rows["split"] == split).any()],
        "attributes": [name for name in index.rows.columns if name not in (*COLUMNS, "file")],
        "notes": list(index.notes),
        "splits": [(split, int(totals[split])) for split in SPLITS if totals[split]],
        "odd": _by_reason(odd),
        "classes": _classes(report, odd, seed),
        "sizes": _tally(report.sizes),
        "formats": _tally(report.formats),
        "faults": _listed(report.faults),
        "unreadable": _listed([{"path": path, "reason": reason} for path, reason in report.unreadable]),
        "missing": _listed(index.missing),
        "unnamed": _listed(index.unnamed),
        "pairs": {"number": len(report.pairs), "shown": _pairs(report.pairs)},
        "leaks": {"number": len(report.group_leaks), "shown": _leaks(report)},
        "to_mend": list(advice.to_mend),
        "duration": list(advice.duration),
    }


def _by_reason(odd: Sequence[Suspicion]) -> list[Context]:
    """Return the suspicions with the classes of the same reason together; classes that are alike stay apart."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for it in odd:
        apart = it.classes if len(it.classes) > 1 else ()
        together.setdefault((it.reason, apart), []).extend(readable_name(cls) for cls in it.classes)
    return [
        {"reason": reason, "classes": {"number": len(classes), "shown": classes[:_NAMED]}}
        for (reason, _), classes in together.items()
    ]


def _classes(report: CheckReport, odd: Sequence[Suspicion], seed: int) -> list[Context]:
    """Return the classes, the largest first; some of them with examples."""
    in_split = {cls: dict(zip(SPLITS, row, strict=True)) for cls, row in
                zip(report.index.classes, report.counts().to_numpy().tolist(), strict=True)}  # fmt: skip
    images = report.index.rows["label"].value_counts().to_dict()
    largest = max(images.values())
    by_size = sorted(report.index.classes, key=lambda cls: (-images[cls], cls))
    doubtful = {cls for it in odd for cls in it.classes}
    full = set(sorted(by_size, key=lambda cls: cls not in doubtful)[:_FULL_CLASSES])
    chosen = _examples(report, full, seed)
    pictures = _pictures((path for paths in chosen.values() for path in paths), lambda p: thumbnails.square(p, _SIDE))
    names = dict(zip(report.rows["path"], report.rows["image"], strict=True))
    return [
        {
            "name": readable_name(cls),
            "images": images[cls],
            "percent": 100 * images[cls] / largest,
            "splits": [{"name": split, "images": number} for split, number in in_split[cls].items() if number],
            "odd": [it.reason for it in odd if it.classes == (cls,)],
            "examples": [
                {"name": names[path], "picture": pictures[path]} for path in chosen.get(cls, ()) if path in pictures
            ],
        }
        for cls in by_size
    ]


def _examples(report: CheckReport, classes: Iterable[str], seed: int) -> dict[str, list[str]]:
    """Choose images of each class at random; the choice depends on `seed`, and not on other classes."""
    paths = report.rows.groupby("label")["path"]
    chosen = {}
    for cls in classes:
        of_class = paths.get_group(cls).to_numpy()
        draw = np.random.Generator(np.random.Philox(seed))
        chosen[cls] = [str(of_class[i]) for i in sorted(draw.permutation(len(of_class))[:_EXAMPLES])]
    return chosen


def _pictures(paths: Iterable[str], make: Callable[[str], np.ndarray]) -> dict[str, Markup]:
    """Return the images that can still be read as JPEGs in base64, by path."""

    def picture(path: str) -> Markup | None:
        try:
            return as_base64(thumbnails.jpeg(make(path), quality=70))
        except ImageError:  # changed since the audit
            return None

    wanted = list(dict.fromkeys(paths))
    found = zip(wanted, in_threads(picture, wanted), strict=True)
    return {path: made for path, made in found if made is not None}


def _pairs(pairs: Sequence[Pair]) -> list[Context]:
    shown = ranked(pairs)[:_PAIRS]
    pictures = _pictures((path for pair in shown for path in pair.paths), lambda p: thumbnails.fitted(p, *_PAIR_SIZE))
    marks = (("leak", "leak"), ("conflict", "two labels"))
    return [
        {
            "marks": [text for name, text in marks if getattr(pair, name)],
            "kind": pair.kind + (", within one group" if pair.within else ""),
            "images": [
                {"name": image, "label": readable_name(label), "split": split, "picture": pictures.get(path)}
                for image, label, split, path in zip(pair.images, pair.labels, pair.splits, pair.paths, strict=True)
            ],
        }
        for pair in shown
    ]


def _leaks(report: CheckReport) -> list[Context]:
    """Return the first groups in several splits, each with an image per split."""
    shown = report.group_leaks[:_LEAKS]
    named = report.rows[report.rows["image"].isin([image for leak in shown for image in leak.images])]
    path_of = dict(zip(named["image"], named["path"], strict=True))
    label_of = dict(zip(named["image"], named["label"], strict=True))
    pictures = _pictures(path_of.values(), lambda path: thumbnails.fitted(path, *_PAIR_SIZE))

    def images(leak: Leak) -> list[Context]:
        return [
            {"name": image, "label": readable_name(label_of[image]), "split": split,
             "picture": pictures.get(path_of[image])}
            for image, split in zip(leak.images, leak.splits, strict=True)
        ]  # fmt: skip

    return [
        {"marks": ["leak"], "kind": f"group {leak.group} stands in {len(leak.splits)} splits", "images": images(leak)}
        for leak in shown
    ]


def _tally(found: Mapping[str, int]) -> Context:
    """Return the commonest values, and how many others there are."""
    most = max(found.values(), default=1)
    shown = list(found.items())[:_TALLIED]
    rows = [{"name": name, "images": number, "percent": 100 * number / most} for name, number in shown]
    return {"rows": rows, "others": len(found) - len(shown)}


def _listed(items: Sequence[object]) -> Context:
    return {"number": len(items), "shown": list(items[:_LISTED])}


def _without_root(context: Context, root: Path) -> Context:
    """Return the context with paths relative to the data folder, whose own path becomes its name."""
    whole = re.compile(re.escape(str(root)) + r"(?P<below>/(?=\w))?")

    def shown(value: object) -> object:
        if isinstance(value, Markup):
            return value
        if isinstance(value, str):
            return whole.sub(lambda found: "" if found["below"] else root.name, value)
        if isinstance(value, dict):
            return {key: shown(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [shown(item) for item in value]
        return value

    return {key: shown(item) for key, item in context.items()}
