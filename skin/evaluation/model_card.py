"""model_card.md: what a model is, what it was made from, what it can do, and what it is not for.

train.py writes the card; evaluate.py fills in its results and touches nothing else of it, so that what
people have written there stays (after Mitchell et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skin.data.class_names import readable_name
from skin.evaluation import pages
from skin.utils.errors import UserError, printable
from skin.utils.files import write_atomically

_BEGIN, _END = "<!-- results: written by evaluate.py -->", "<!-- end of results -->"
_PROCEDURE = (
    "weights", "epochs", "batch_size", "lr", "weight_decay", "warmup_epochs", "freeze_epochs", "class_weights",
    "monitor", "amp", "seed",
)  # fmt: skip


def write_model_card(
    path: Path,
    config: dict[str, Any],
    classes: Sequence[str],
    metrics: dict[str, Any],
    report: dict[str, Any] | None = None,
) -> None:
    """Write the card; of one that is there already only the results change, where there is a report.

    Args:
        config: the run's options, as in config.json. metrics: the best epoch's row of metrics.csv.
        report: of evaluate.py (`skin.evaluation.report.build`).

    Raises:
        UserError: the file cannot be read or written.
    """
    if report is None and path.exists():
        return
    results = f"{_BEGIN}\n{_results(report)}\n{_END}"
    before, after = _existing(path)
    card = _card(config, classes, metrics, results) if before is None else before + results + after
    write_atomically(card.encode("utf-8", "replace"), path)


def check_model_card(path: Path) -> None:
    """Raise `UserError` where a card is there that `write_model_card` could not fill in."""
    _existing(path)


def _existing(path: Path) -> tuple[str | None, str]:
    """The text before and after the results of a card that is there; None where it has no place for them."""
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


def _card(config: dict[str, Any], classes: Sequence[str], metrics: dict[str, Any], results: str) -> str:
    model = config.get("model", "unknown model")
    resolved = config.get("resolved") or {}
    data = Path(config["data"]).name if config.get("data") else "unknown"
    split = config.get("split") or "as the data bring it"
    size = config.get("image_size") or resolved.get("image_size") or "the model's own"
    return f"""# Model card: {model} for skin disease images

**Research software, not a medical device.** No diagnosis and no decision about a patient may rest on it.

## Model

- {model} (torchvision), image size {size} px, {len(classes)} classes
- classes: {", ".join(_safe(readable_name(name)) for name in classes)}
- answers with calibrated probabilities, prediction sets, and a flag for images unlike those it was trained on

## Intended use

Research on the classification of skin lesions in images like the training images, and teaching. Out of scope:
screening or diagnosis, images of another kind (clinical photographs for a model of dermatoscopic images, histology),
diseases that are none of its classes.

## Training data

{_safe(data)}; split {_safe(split)}, no lesion or patient on two sides where they are known.
What the images do not show, the model has not seen: other skin types, ages, devices and diseases than theirs.

## Training

{_procedure(config)}

Best epoch: {metrics.get("epoch", "unknown")}. On the validation part, which also chose the epoch: accuracy \
{_number(metrics.get("val_accuracy"))}, balanced accuracy {_number(metrics.get("val_balanced_accuracy"))}, \
macro AUROC {_number(metrics.get("val_macro_auc"))}.

## Results

{results}

## Limits

- Figures hold for the set they were measured on. Another clinic, camera or population needs its own evaluation.
- A prediction set covers the truth as often as promised only for images of the kind the model was calibrated on.
- The flag for unlike images catches what is far off; a new disease that looks like an old one passes.
"""


def _procedure(config: dict[str, Any]) -> str:
    said = [name for name in _PROCEDURE if config.get(name) is not None]
    rows = [f"| {name.replace('_', ' ')} | {_safe(config[name])} |" for name in said]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) and value == value else "not available"


def _safe(text: Any) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _results(report: dict[str, Any] | None) -> str:
    if report is None:
        return "Not evaluated yet: `python evaluate.py --checkpoint best.pt` fills this in."
    blocks = pages.document(report)
    end = next(i for i, block in enumerate(blocks) if isinstance(block, pages.Heading) and "How these" in block.text)
    deeper = [pages.Heading(b.text, 3) if isinstance(b, pages.Heading) else b for b in blocks[:end]]
    return pages.markdown(deeper).rstrip("\n")
