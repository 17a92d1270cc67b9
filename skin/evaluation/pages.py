"""Pages for people, from a report and the templates in `templates/`: HTML, Markdown, and lines for the terminal.

What the pages say and how they look is in the templates. This module prepares what they show: plain dicts, lists,
texts and numbers. Each text is made safe for its page before a template sees it, so no template can forget it.
"""

from __future__ import annotations

import base64
import dataclasses
import html as html_entities
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from skin.data.class_names import readable_name
from skin.evaluation import against, metrics, operating_points, spread, subgroups
from skin.evaluation.metrics import Metric
from skin.evaluation.report_types import (
    AgainstReport,
    AttributeReport,
    ByMetric,
    CalibrationReport,
    Characteristic,
    ClassReport,
    Comparison,
    DecisionReport,
    DeferralReport,
    FoldsReport,
    MalignantReport,
    MetadataReport,
    OperatingPoint,
    OperatingReport,
    PatientReport,
    Population,
    PrevalenceReport,
    ReliabilityReport,
    Report,
)  # fmt: skip
from skin.evaluation.verdict import beats_guessing
from skin.utils.direction import isolated
from skin.utils.drawing import DPI
from skin.utils.errors import printable

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

Context = dict[str, Any]
_TEMPLATES = Path(__file__).parent / "templates"
_SHOWN_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the decision curve
_LONGEST = 2000  # characters of a text from the data
_PIXELS_PER_INCH = 90  # of a picture on the page


def html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return the report as one HTML file that needs nothing else: pictures (PNG, by file name) inside, no scripts."""
    data = {name: inside(content) for name, content in pictures.items()}
    context = _context(report) | {"pictures": data, "top_level": 1, "level": 2}
    context["about"] = _made_safe(context["about"], in_html)  # a path that is copied from there must have no marks
    return render("report.html", context, lambda text: isolated(in_html(text)))


def inside(png: bytes) -> Context:
    """Return a PNG as the macro `picture` has it: its data, and the width in CSS pixels.

    At that width its letters are as large as the page's own.
    """
    pixels = int.from_bytes(png[16:20], "big")  # in a PNG's first chunk
    return {"data": as_base64(png), "width": round(pixels / DPI * _PIXELS_PER_INCH)}


def as_base64(content: bytes) -> Markup:
    """Return the content of a file as a data URL in a page has it."""
    return Markup(base64.b64encode(content).decode("ascii"))


def stard_ai(report: Report) -> str:
    """Return the checklist of STARD-AI as Markdown, filled in as far as the report knows."""
    return _without_gaps(render("stard_ai.md", _context(report), in_markdown))


def markdown(report: Report, pictures: Iterable[str] = ()) -> str:
    """Return the report as GitHub-flavoured Markdown; `pictures` are the files beside it."""
    shown = {"pictures": dict.fromkeys(pictures), "top_level": 1, "level": 2}  # keys are not escaped
    return _without_gaps(render("report.md", _context(report) | shown, in_markdown))


def results(report: Report) -> str:
    """Return what a model card shows of a report, as Markdown."""
    shown = {"pictures": {}, "top_level": 3, "level": 3}
    return _without_gaps(render("results.md", _context(report) | shown, in_markdown))


def summary(report: Report, folder: Path) -> str:
    """Return the few lines that end the script; `folder` holds the report."""
    return render("summary.txt", _context(report) | {"out": str(folder)}, _on_terminal).rstrip("\n")


def render(template: str, context: Context, safe: Callable[[str], str]) -> str:
    """Return a page of `templates/`; each text of `context` goes through `safe` first."""
    return _environment().get_template(template).render(_made_safe(context, safe))


def in_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is; a `<` becomes an entity, so that no tag is left in any reader."""
    return re.sub(r"([\\`*_{}\[\]>#|!])", r"\\\1", printable(text, limit=_LONGEST)).replace("<", "&lt;")


def in_html(text: str) -> str:
    """Return a text that HTML shows as it is, in an element or a quoted attribute."""
    return html_entities.escape(printable(text, limit=_LONGEST))


def _on_terminal(text: str) -> str:
    return printable(text, limit=_LONGEST)


def _made_safe(value: Any, safe: Callable[[str], str]) -> Any:
    """Return `value` with each text in it, keys aside, as markup that the templates do not escape again."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return Markup(safe(value))
    if isinstance(value, dict):
        return {key: _made_safe(item, safe) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_made_safe(item, safe) for item in value]
    return value


@cache
def _environment() -> Environment:
    """Return the templates' environment; a name that the context lacks is an error there."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.globals["thousands"] = "{:,}".format
    made.filters["one_line"] = lambda text: Markup(" ".join(text.split()))
    made.filters["slug"] = lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return made


def _without_gaps(text: str) -> str:
    """Return Markdown with one empty line between its parts."""
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


# ---- the context ----------------------------------------------------------------------------------------------


def _context(report: Report) -> Context:
    supports = [of_class.support for of_class in report.per_class.values()]
    attributes = [_attribute(name, found) for name, found in report.subgroups.items()]
    return {
        "about": dataclasses.asdict(report.about),
        "intervals": dataclasses.asdict(report.intervals),
        "unit": report.intervals.resampled,
        "verdict": dataclasses.asdict(report.verdict) if report.verdict else None,
        "population": _population(report.population) if report.population else None,
        "warnings": report.warnings,
        "notes": report.notes,
        "images": report.images,
        "groups": report.groups,
        "classes_present": sum(support > 0 for support in supports),
        "commonest": max(supports) / max(sum(supports), 1),
        "value": {name: estimate.text() for name, estimate in report.metrics.items()},
        "overall": _overall(report.metrics),
        "lesions": report.per_lesion.lesions if report.per_lesion else 0,
        "per_lesion": _beside_images(metrics.OVERALL, report.per_lesion.metrics, report) if report.per_lesion else [],
        "per_patient": _per_patient(report.per_patient, report) if report.per_patient else None,
        "views": _compared(metrics.OF_A_COMPARISON, report.views) if report.views else [],
        "metadata": _metadata(report.metadata) if report.metadata else None,
        "against": _against(report.against) if report.against else None,
        "folds": _folds(report.folds) if report.folds else None,
        "beats_guessing": beats_guessing(report),
        "label_review": dataclasses.asdict(report.label_review) if report.label_review else None,
        "operating": _operating(report.operating_points, report),
        "prevalence": _prevalence(report.prevalence, report) if report.prevalence else None,
        "decision_curve": _decision_curve(report),
        "deferral": _deferral(report.deferral),
        "decision": _decision(report.decision),
        "called_titles": [metric.label for metric in metrics.OF_CALLED],
        "other_titles": [metric.label for metric in _others()],
        "classes": [_class(report, name, of_class) for name, of_class in report.per_class.items()],
        "threshold": _threshold(report),
        "malignant": _malignant(report.malignant) if report.malignant else None,
        "calibration": _calibration(report.calibration),
        "subgroups": attributes,
        "largest_gaps": [
            gap | {"attribute": attribute["name"]}
            for attribute in attributes
            for gap in attribute["gaps"]
            if gap["name"] == "balanced_accuracy"
        ],
    }


def _population(population: Population) -> Context:
    flow = population.flow
    unit = flow.groups_are
    amounts = population.columns.values()
    rows: list[Context] = [{"title": "Images", "cells": [f"{amount.images:,}" for amount in amounts]}]
    if unit != "images":
        rows.append({"title": unit.capitalize(), "cells": [f"{amount.groups:,}" for amount in amounts]})
    totals = {name: amount.images for name, amount in population.columns.items()}
    for it in population.characteristics:
        rows += _characteristic(it, totals)
    return {
        "flow": dataclasses.asdict(flow),
        "columns": list(population.columns),
        "rows": rows,
    }


def _characteristic(it: Characteristic, totals: Mapping[str, int]) -> list[Context]:
    """Return the rows of Table 1 on one characteristic."""
    if it.numbers is not None:
        of_columns = it.numbers.values()
        means = [f"{n.mean:.1f} ({n.sd:.1f})" for n in of_columns]
        quartiles = [f"{n.median:g} ({n.quartile_1:g}–{n.quartile_3:g})" for n in of_columns]
        known = [not math.isnan(n.mean) for n in of_columns]
        return [
            {"title": f"{it.title}, mean (standard deviation)", "cells": _if_known(means, known)},
            {"title": f"{it.title}, median (quartiles)", "cells": _if_known(quartiles, known)},
            {"title": f"{it.title}: not recorded", "cells": [f"{n.not_recorded:,}" for n in of_columns]},
        ]
    rows = []
    for value, counts in (it.values or {}).items():
        name = readable_name(value) if it.column == "label" else value
        cells = [_share(counts[column], totals[column]) for column in totals]
        rows.append({"title": f"{it.title}: {name}", "cells": cells})
    return rows


def _if_known(texts: list[str], known: list[bool]) -> list[str]:
    return [text if there else "not available" for text, there in zip(texts, known, strict=True)]


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.1f} %)" if total else "0"


def _others() -> list[Metric]:
    """Return the metrics of a class that need its probability, and F1."""
    return [metric for metric in metrics.PER_CLASS if metric not in metrics.OF_CALLED]


def _narrow(chosen: Iterable[Metric], estimates: ByMetric) -> list[str]:
    """Return the cells of a wide table."""
    return [estimates[metric.name].text(metric.digits - 1) for metric in chosen]


def _class(report: Report, name: str, of_class: ClassReport) -> Context:
    threshold = of_class.at_threshold
    sets = report.calibration.prediction_sets.values()
    return {
        "name": of_class.name,
        "support": of_class.support,
        "sensitivity": of_class.metrics["sensitivity"].text(),
        "calibration": _line(report.calibration.per_class[name]),
        "called": _narrow(metrics.OF_CALLED, of_class.metrics),
        "others": _narrow(_others(), of_class.metrics),
        "at_threshold": _narrow(metrics.OF_CALLED, threshold.metrics) if threshold else None,
        "coverage": [of_level.coverage_by_class[name].text(2) for of_level in sets],
    }


def _line(found: ReliabilityReport) -> list[str]:
    return [found.slope.text(2), found.intercept.text(2)]


def _overall(estimates: ByMetric) -> list[Context]:
    return [
        {"label": metric.label, "value": estimates[metric.name].text(metric.digits)} for metric in metrics.OVERALL
    ]


def _beside_images(chosen: Iterable[Metric], estimates: ByMetric, report: Report) -> list[Context]:
    """Return metrics of lesions or patients beside those of the images, which may be of malignant."""
    of_images = report.metrics if chosen is metrics.OVERALL or report.malignant is None else report.malignant.metrics
    return [
        {
            "label": metric.label,
            "of_images": of_images[metric.name].text(metric.digits),
            "value": estimates[metric.name].text(metric.digits),
        }
        for metric in chosen
    ]


def _per_patient(found: PatientReport, report: Report) -> Context:
    return {
        "patients": found.patients,
        "with_malignant": found.with_malignant,
        "accuracy": found.accuracy.text(),
        "metrics": _beside_images(metrics.OF_TWO_CLASSES, found.malignant, report) if found.malignant else [],
    }


def _compared(chosen: Iterable[Metric], found: Comparison) -> list[Context]:
    """Return what is shown of two answers to the same images."""
    return [
        {
            "label": metric.label,
            "before": found.before[metric.name].text(metric.digits),
            "after": found.after[metric.name].text(metric.digits),
            "difference": found.difference[metric.name].text(metric.digits),
        }
        for metric in chosen
    ]


def _metadata(found: MetadataReport) -> Context:
    difference = found.overall.difference["balanced_accuracy"]
    return {
        "known": [f"{name} of {100 * share:.0f} %" for name, share in found.known.items()],
        "difference": difference.text(metrics.BY_NAME["balanced_accuracy"].digits),
        "overall": _compared(metrics.OVERALL, found.overall),
        "alone": found.alone[:1].upper() + found.alone[1:],
        "shortcut": found.shortcut,
    }


def _against(found: AgainstReport) -> Context:
    mcnemar = f"{found.mcnemar.this_alone:,} images are answered rightly by this model alone, "
    mcnemar += f"{found.mcnemar.other_alone:,} by the other alone"
    exact = found.mcnemar.p_value
    mcnemar += f" ({found.mcnemar.reason})" if exact is None else f" (McNemar's exact test: p = {exact:.3f})"
    delong = found.delong.p_value if found.delong else None
    decides = metrics.BY_NAME[against.DECIDES]
    return {
        "checkpoint": found.checkpoint,
        "decides": decides.title.lower(),
        "by_balanced": found.balanced.difference[decides.name].text(decides.digits) if found.balanced else "",
        "conclusion": found.conclusion,
        "overall": _compared(metrics.OVERALL, found.overall),
        "balanced": _compared(metrics.OF_LABELS, found.balanced) if found.balanced else [],
        "malignant": _compared(metrics.OF_TWO_CLASSES, found.malignant) if found.malignant else [],
        "mcnemar": mcnemar,
        "delong": "" if delong is None else f"{delong:.3f}",
    }


def _folds(found: FoldsReport) -> Context:
    temperatures = [fold.temperature for fold in found.folds]

    def cells(values: Mapping[str, float]) -> list[str]:
        return [f"{values[metric.name]:.{metric.digits}f}" for metric in spread.METRICS]

    return {
        "titles": [metric.label for metric in spread.METRICS],
        "rows": [
            {"name": str(fold.fold), "images": fold.images, "metrics": cells(fold.metrics)} for fold in found.folds
        ],
        "mean": cells(found.mean),
        "standard_deviation": cells(found.standard_deviation),
        "temperatures": f"{min(temperatures):.2f} to {max(temperatures):.2f}",
    }


def _operating(found: OperatingReport, report: Report) -> Context:
    titles = {rule.name: rule.title for rule in operating_points.rules(found.cost_ratio)}
    malignant = [_point("malignant", titles[rule], point) for rule, point in (found.malignant or {}).items()]
    of_classes = [
        _point(report.per_class[name].name, titles[rule], point)
        for name, points in found.per_class.items()
        if points is not found.malignant
        for rule, point in points.items()
    ]
    return {"reason": found.reason, "malignant": malignant, "points": malignant + of_classes}


def _point(name: str, rule: str, point: OperatingPoint) -> Context:
    seen = point.validation
    return {
        "name": name,
        "rule": rule,
        "chosen": point.threshold is not None,
        "threshold": "none" if point.threshold is None else f"{point.threshold:.3g}",
        "validation": f"{seen.sensitivity:.2f}, {seen.specificity:.2f}" if seen else point.reason,
        "metrics": _narrow(metrics.OF_CALLED, point.metrics) if point.metrics else ["–"] * len(metrics.OF_CALLED),
    }


def _prevalence(found: PrevalenceReport, report: Report) -> Context:
    titles = {rule.name: rule.title for rule in operating_points.rules(report.operating_points.cost_ratio)}
    titles |= {"label": "Label", "half": "Risk above a half"}
    return {
        "stated": list(found.stated.items()),
        "targets": [
            {
                "name": report.per_class[name].name if name in report.per_class else name,
                "prevalence": target.prevalence,
                "points": [
                    {"title": titles[rule], "metrics": [values.metrics[m.name].text() for m in metrics.OF_CALLED]}
                    for rule, values in target.called.items()
                ],
            }
            for name, target in found.targets.items()
        ],
    }


def _decision_curve(report: Report) -> list[Context]:
    return [
        {
            "threshold": f"{100 * point.threshold:.0f} %",
            "model": point.model.text(),
            "treat_all": point.treat_all.text(),
            "gain": point.gain.text(),
        }
        for point in report.decision_curve or []
        if point.threshold in _SHOWN_THRESHOLDS
    ]


def _deferral(found: DeferralReport) -> Context:
    return {
        "aurc": found.aurc.text(),
        "error": f"{found.risk[0].error.value:.3f}",
        "risk": [{"coverage": f"{100 * at.coverage:.0f} %", "error": at.error.text()} for at in found.risk],
    }


def _decision(found: DecisionReport) -> Context:
    return {
        "rule": found.rule,
        "metrics": [
            {
                "label": metric.label,
                "most_probable": found.most_probable[metric.name].text(),
                "balanced": found.balanced[metric.name].text() if found.balanced else None,
                "difference": found.difference[metric.name].text() if found.difference else None,
            }
            for metric in metrics.OF_LABELS
        ],
    }


def _threshold(report: Report) -> float | None:
    of_class = next(iter(report.per_class.values()))
    return of_class.at_threshold.threshold if of_class.at_threshold else None


def _malignant(two: MalignantReport) -> Context:
    return {
        "malignant": [readable_name(name) for name in two.malignant],
        "benign": [readable_name(name) for name in two.benign],
        "support": two.support,
        "metrics": [
            {"label": metric.label, "value": two.metrics[metric.name].text(metric.digits)}
            for metric in metrics.OF_TWO_CLASSES
        ],
    }


def _calibration(calibration: CalibrationReport) -> Context:
    unlike, biases = calibration.unlike_training, calibration.biases or {}
    return {
        "temperature": calibration.temperature,
        "biases": [f"{readable_name(name)} {bias:+.2f}" for name, bias in biases.items() if any(biases.values())],
        "cross_validation": calibration.cross_validation,
        "validation_images": calibration.validation_images,
        "metrics": _compared(
            metrics.OF_PROBABILITIES, Comparison(calibration.before, calibration.after, calibration.difference)
        ),
        "confidence": _line(calibration.confidence),
        "malignant": _line(calibration.malignant) if calibration.malignant else None,
        "unlike": dataclasses.asdict(unlike) | {"flagged": unlike.flagged.text()},
        "set_titles": [f"{level} % sets" for level in calibration.prediction_sets],
        "sets": [
            {
                "level": level,
                "coverage": sets.coverage.text(2),
                "mean_size": sets.mean_size.text(2),
                "shared": sets.shared_threshold,
                "without": sets.no_threshold,
            }
            for level, sets in calibration.prediction_sets.items()
        ],
    }


def _attribute(name: str, found: AttributeReport) -> Context:
    """Return what is shown of the subgroups of an attribute, and the largest gaps that there are."""
    shown = [entry for entry in subgroups.METRICS if any(entry.name in g.metrics for g in found.groups.values())]
    return {
        "name": name,
        "titles": [entry.label for entry in shown],
        "groups": [
            {
                "name": group,
                "images": of_group.images,
                "small": of_group.small,
                "metrics": [of_group.metrics[entry.name].text(entry.metric.digits - 1) for entry in shown],
            }
            for group, of_group in found.groups.items()
        ],
        "gaps": [
            {
                "name": entry.name,
                "metric": entry.title[0].lower() + entry.title[1:],
                "difference": gap.difference.text(entry.metric.digits - 1),
                "best": gap.best,
                "worst": gap.worst,
                "over": [readable_name(c) for c in gap.classes],
            }
            for entry in shown
            if (gap := found.largest_gap.get(entry.name)) is not None
        ],
        "heterogeneity": [
            {"metric": entry.title[0].lower() + entry.title[1:], **dataclasses.asdict(test)}
            for entry in shown
            if (test := found.heterogeneity.get(entry.name)) is not None
        ],
    }
