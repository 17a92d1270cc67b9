"""Write model_card.md: what a model is, how it was made, what it can do, and what it is not for.

train.py writes the card. evaluate.py fills in the results and changes nothing else, so that all that people have
written stays (after Mitchell et al. 2019). The text is in `templates/model_card.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skin.data.class_names import readable_name
from skin.evaluation import metadata_alone, pages
from skin.evaluation.about import settings_of
from skin.evaluation.report_types import Report
from skin.model.calibration import Calibration
from skin.model.unlike import passing
from skin.utils.errors import UserError
from skin.utils.files import write_atomically

from markupsafe import Markup

Metrics = Mapping[str, int | float | None]  # a row of metrics.csv; None if a metric is not defined

_BEGIN, _END = "<!-- results: written by evaluate.py -->", "<!-- end of results -->"


def write_model_card(
    path: Path,
    config: dict[str, Any],
    classes: Sequence[str],
    metrics: Metrics,
    report: Report | None = None,
    warnings: Sequence[str] = (),
    calibrated: Calibration | None = None,
    images: Mapping[str, int] | None = None,
) -> None:
    """Write the card. If there is one already, only its results change, and only if there is a report.

    Args:
        config: the run's options, as in config.json. metrics: the best epoch's row of metrics.csv.
        report: of evaluate.py (`skin.evaluation.report.build`).
        warnings: what is not known of the training data.
        calibrated: of the best model: how well pictures that show no skin are flagged, and metadata alone predict.
        images: number of images of each split.

    Raises:
        UserError: the file cannot be read or written.
    """
    if report is None and path.exists():
        return
    results = f"{_BEGIN}\n{_results(report)}\n{_END}"
    before, after = _existing(path)
    if before is None:
        card = _card(config, classes, metrics, warnings, calibrated or {}, results, images or {})
    else:
        card = before + results + after
    write_atomically(card.encode("utf-8", "replace"), path)


def check_model_card(path: Path) -> None:
    """Raise `UserError` if there is a card that `write_model_card` could not fill in."""
    _existing(path)


def _existing(path: Path) -> tuple[str | None, str]:
    """Return the text before and after the results of a card; None and "" if there is no card."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise UserError(f"{path} has no place for results (it lacks the line {_BEGIN}); move it away")
    return before, after


def _card(
    config: dict[str, Any], classes: Sequence[str], metrics: Metrics, warnings: Sequence[str],
    calibrated: Calibration, results: str, images: Mapping[str, int],
) -> str:  # fmt: skip
    unlike: Any = calibrated.get("unlike", {})
    alone = calibrated.get("metadata_alone")
    resolved = config.get("resolved") or {}
    context = {
        "model": config.get("model", "unknown model"),
        "image_size": str(config.get("image_size") or resolved.get("image_size") or "the model's own"),
        "classes": [readable_name(name) for name in classes],
        "data": Path(config["data"]).name if config.get("data") else "unknown",
        "warnings": list(warnings),
        "split": _split(images, config.get("folds")),
        "procedure": [(name.replace("_", " "), str(value)) for name, value in settings_of(config).items()],
        "best": {
            "epoch": metrics.get("epoch", "unknown"),
            **{name: metrics.get(name) for name in ("val_accuracy", "val_balanced_accuracy", "val_macro_auc")},
        },
        "metadata": list(config.get("metadata") or ()),
        "alone": metadata_alone.said(alone) if alone else "",
        "shortcut": alone is not None and metadata_alone.is_shortcut(alone),
        "stand_ins": unlike.get("caught", {}),
        "cannot_tell": passing(unlike) if unlike else [],
        "results": Markup(results),  # Markdown already
    }
    return pages.render("model_card.md", context, pages.in_markdown)


def _split(images: Mapping[str, int], folds: int | None) -> str:
    """Return a phrase on the images of each split; "" if they are not known. Folds share out train and val."""
    words = {"train": "training", "val": "validation", "test": "test"}
    parts = [f"{images[name]:,} {word}" for name, word in words.items() if images.get(name)]
    if parts and folds and "val" not in images:
        parts[0] += f" images in {folds} folds"
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) + " images" if parts else ""


def _results(report: Report | None) -> str:
    if report is None:
        return "Not evaluated yet: `python evaluate.py --checkpoint best.pt` fills this in."
    return pages.results(report).rstrip("\n")
