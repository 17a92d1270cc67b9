"""The page's answer about a picture: what it says first, what to do next, and its HTML.

A prediction set is the headline, a malignant class in it comes first, and a picture that is unlike the training
images gets no number at all. The words are in `words.toml`, the HTML is in `web/answer.html`.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from skin.data import thumbnails
from skin.data.class_names import BENIGN, is_malignant, same_disease
from skin.data.images import ImageError
from skin.data.metadata import column_of
from skin.model.classifier import Answer, Known, Prediction, SkinClassifier
from skin.serving.outputs import csv_row
from skin.serving.words import Words
from skin.utils.errors import UserError, printable

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

WEB = Path(__file__).with_name("web")
NAMED = 4  # classes of a set that the headline names; the rest are counted
SHOWN = 7  # classes that get a bar; the rest are counted

_GONE = "no longer here"
# The sentence for a picture that cannot be read, by what `ImageError.reason` begins with or holds.
_PROBLEMS = (
    (r"an empty file", "problem_empty"),
    (r"not an image of a format", "problem_format"),
    (r"more than the .* pixels|\d+x\d+ pixels, more than", "problem_pixels"),
    (r"not enough memory", "problem_pixels"),
    (r".*too narrow", "problem_narrow"),
    (_GONE, "problem_gone"),
)


@dataclass(frozen=True)
class Finding:
    """A prediction in words for people.

    Attributes:
        headline: the prediction set in words, malignant classes first; or that the picture is unlike the others.
        note: what the headline means.
        advice: what to do next.
        malignant: the malignant classes that are possible, as people name them.
        unlike: there is no answer.
    """

    headline: str
    note: str
    advice: str
    malignant: tuple[str, ...]
    unlike: bool


def finding_of(prediction: Prediction, words: Words, calibrated: bool) -> Finding:
    """Return what people are told first of a prediction.

    Args:
        calibrated: the model's sets were fitted; otherwise they hold every class and say nothing.
    """
    if prediction.unlike:
        return Finding(words("unlike"), words("unlike_more"), words("unlike_next"), (), True)
    names = words.names(prediction.classes)
    # The sort is stable: among the malignant classes, and the others, the model's ranking stays.
    possible = sorted(prediction.prediction_set, key=lambda name: not is_malignant(name))
    malignant = tuple(names[name] for name in possible if is_malignant(name))
    if malignant:
        advice = words("next_malignant", names=words.listed(malignant))
    elif all(same_disease(name) in BENIGN or is_malignant(name) for name in prediction.classes):
        advice = words("next_benign")
    else:
        advice = words("next_unknown")
    if not calibrated:
        headline = words("guess", names=names[prediction.label])
        if malignant and not is_malignant(prediction.label):
            headline = words("guess_malignant", names=names[prediction.label], malignant=malignant[0])
        return Finding(headline, words("guess_more"), advice, malignant, False)
    return Finding(_headline(possible, names, words), words("meaning"), advice, malignant, False)


def _headline(possible: list[str], names: dict[str, str], words: Words) -> str:
    """Return a prediction set in words; its malignant classes come first in `possible`."""
    if len(possible) == 1:
        return words("sure", names=names[possible[0]])
    if len(possible) == len(names) > NAMED:
        if is_malignant(possible[0]):
            return words("undecided_all_malignant", malignant=names[possible[0]])
        return words("undecided_all")
    if len(possible) <= NAMED + 1:  # one more name is shorter than to say that there is one more
        return words("undecided", names=words.listed([names[name] for name in possible]))
    named = ", ".join(names[name] for name in possible[:NAMED])
    return words("undecided_more", names=named, count=len(possible) - NAMED)


# ---- asking the model -----------------------------------------------------------------------------------


def answer_of(
    model: SkinClassifier, path: str, name: str, metadata: Known | None = None
) -> tuple[Answer[str], np.ndarray | None]:
    """Return the answer for the picture at `path`, which people know as `name`, and the square that was looked at.

    Raises:
        UserError: the model cannot answer.
    """
    try:
        with open(path, "rb") as file:  # not by its name, which may be that of an image in an archive
            pixels = model.pixels(file)
    except ImageError as error:
        return Answer(name, None, error, None), None
    except OSError:
        return Answer(name, None, ImageError(name, _GONE), None), None
    known = None if metadata is None else [metadata]
    return Answer(name, model.predict_pixels(pixels[None], metadata=known)[0], None, None), pixels


def answer_html(model: SkinClassifier, path: str, words: Words, metadata: Known | None = None) -> str:
    """Return the HTML for the picture at `path`, or a sentence if it cannot be read."""
    try:
        answer, pixels = answer_of(model, path, "", metadata)
        if answer.prediction is None or pixels is None:
            return _problem(words, _problem_key(answer.error), answer.error.reason if answer.error else "")
        explanation = None
        if not answer.prediction.unlike:
            known = None if metadata is None else [metadata]
            explanation = model.explain_pixels(pixels[None], [answer.prediction.label], known)[0]
    except UserError as error:
        return _problem(words, "problem_model", str(error))
    overlay = None
    if explanation is not None and explanation.heat.max() > 0:
        overlay = _data_url(explanation.overlay)
    finding = finding_of(answer.prediction, words, model.facts.calibration_images > 0)
    return render(
        "answer.html", words=words, prediction=answer.prediction, finding=finding,
        bars=[] if finding.unlike else _bars(answer.prediction, words, model.facts.calibration_images > 0),
        rest=len(model.classes) - SHOWN, square=_data_url(pixels), overlay=overlay,
        first=words.names(model.classes)[answer.prediction.label], used=_used(model, metadata or {}, words),
    )  # fmt: skip


def _used(model: SkinClassifier, metadata: Known, words: Words) -> str:
    """Return the metadata that the model has used, in words; "" if it has used none."""
    if model.encoder is None:
        return ""
    known = model.encoder.known(model.encoder.encode({name: [value] for name, value in metadata.items()}, 1))
    return ", ".join(
        f"{words.known_as(name)} {words.known_as(printable(metadata[given], limit=100))}"
        for name, share in known.items()
        if share and (given := column_of(metadata, name))
    )


def answer_row(model: SkinClassifier, path: str, name: str, words: Words) -> dict[str, Any]:
    """Return a picture's row of the table: its words, its mark, and its cells as in `predict.py --csv`."""
    row: dict[str, Any] = {"mark": "", "first": ""}
    answer, _ = answer_of(model, path, printable(name, limit=500))
    if answer.prediction is None:
        row |= {"mark": "unread", "answer": words(_problem_key(answer.error))}
    else:
        finding = finding_of(answer.prediction, words, model.facts.calibration_images > 0)
        row["answer"] = words("table_unlike") if finding.unlike else finding.headline
        row["mark"] = "unlike" if finding.unlike else "malignant" if finding.malignant else ""
        if not finding.unlike:
            first = words.names(model.classes)[answer.prediction.label]
            row["first"] = f"{first} {words.percent(answer.prediction.probability)}"
    return row | {"csv": csv_row(answer, model.classes)}


def _problem_key(error: ImageError | None) -> str:
    reason = error.reason if error else ""
    return next((key for pattern, key in _PROBLEMS if re.match(pattern, reason)), "problem_damaged")


# ---- HTML -----------------------------------------------------------------------------------------------


def render(template: str, **context: Any) -> str:
    """Return a page from `web/`, with every value escaped."""
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _problem(words: Words, key: str, reason: str) -> str:
    return render("problem.html", sentence=words(key), reason=reason)


def _bars(prediction: Prediction, words: Words, calibrated: bool) -> list[dict[str, Any]]:
    """Return the most probable classes, each with its name, share, and what is marked at it."""
    names = words.names(prediction.classes)
    by_probability = sorted(prediction.top(len(prediction.classes)), key=lambda each: -each[1])
    return [
        {
            "name": names[name],
            "code": name if words.renames(name) else "",
            "percent": words.percent(probability),
            "width": f"{100 * probability:.2f}%",
            "possible": calibrated and name in prediction.prediction_set,
            "malignant": is_malignant(name),
        }
        for name, probability in by_probability[:SHOWN]
    ]


def _data_url(pixels: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(thumbnails.jpeg(pixels, quality=90)).decode()
