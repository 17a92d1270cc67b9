"""Draw the pictures of a report, as a journal would print them.

Each function draws one picture from a report and the model's predictions, and returns a new matplotlib figure. A
class has one colour in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from skin.evaluation import deferral, metrics
from skin.evaluation.intervals import Estimate
from skin.evaluation.metrics import Array
from skin.evaluation.population import FOLDS
from skin.evaluation.report_types import Amount, Report, Subgroup
from skin.evaluation.subgroups import METRICS, SubgroupMetric
from skin.utils import drawing
from skin.utils.drawing import (
    ACCENT,
    COLOURS,
    FAINT,
    GRID,
    INK,
    SECOND,
    colours_of,
    drawable,
    label,
    labels,
    styled,
)  # fmt: skip
from skin.utils.errors import printable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

DPI = drawing.DPI
_ARROW: Any = {"arrowstyle": "-|>", "color": FAINT, "linewidth": 1.0}
_HEADING: Any = {"fontweight": "bold", "fontsize": 10}


def _figure(width: float, height: float) -> Figure:
    return drawing.figure(width, height, DPI)


def notes(report: Report) -> list[str]:
    """Return a note on names that no font here can draw, if there are any."""
    names = [*report.per_class, *(name for found in report.subgroups.values() for name in found.groups)]
    lacking = [name for name in names if set(printable(name, limit=2000)) - drawable(printable(name, limit=2000))]
    if not lacking:
        return []
    return [
        f"the pictures lack letters of {', '.join(lacking[:5])}: no font on this machine has them; install one that "
        "has, such as Noto Sans CJK, and evaluate again"
    ]


# ---- the confusion matrix -------------------------------------------------------------------------------------


def confusion_matrix(report: Report) -> Figure:
    """Draw counts, and the share of each true class (row), which is also the colour."""
    classes, counts = report.confusion_matrix.classes, np.array(report.confusion_matrix.counts)
    size = len(classes)
    shares = metrics.ratio(counts, counts.sum(1, keepdims=True))
    with styled(classes):
        cell = 0.72 if size <= 10 else 0.5 if size <= 20 else 0.44
        names = labels(classes)
        slanted = max(_inches(name) for name in names) > cell
        side = max(2.2, cell * size)
        beside, below = _inches("n = 0,000", *names), _inches(*names) if slanted else 0.3
        made = _figure(side + beside + 1.1, side + below + 0.8)
        axes = made.add_subplot()
        axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(size, size):
            if counts[i, j] == 0:
                continue
            share = _percent(float(shares[i, j]))
            axes.text(
                j, i, f"{counts[i, j]:,}\n{share}" if size <= 20 else f"{counts[i, j]:,}", ha="center", va="center",
                color="white" if shares[i, j] > 0.55 else INK, fontsize=8.5 if size <= 10 else 7.5,
                fontweight="bold" if i == j else "normal", linespacing=1.25,
            )  # fmt: skip
        axes.set_xticks(range(size), names, rotation=90 if slanted else 0, linespacing=1.1)
        totals = counts.sum(1)
        rows = [f"{name}\nn = {n:,}" if size <= 10 else name for name, n in zip(names, totals, strict=True)]
        axes.set_yticks(range(size), rows, linespacing=1.1)
        axes.tick_params(labelsize=8.5 if size <= 10 else 7.5)
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title("Images and row shares" if size <= 20 else "Images; row shares as the shade")
    return made


def _inches(*names: str) -> float:
    """Return the width of the longest line of names beside an axis."""
    return 0.078 * max(len(line) for name in names for line in name.splitlines() or [""])


def _lines(names: Sequence[str]) -> int:
    return max(name.count("\n") + 1 for name in names)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"


# ---- ROC and precision-recall ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curve:
    """A kind of curve of one class against all others, and how it is drawn."""

    area: str  # the metric of a class that is the area under it
    title: str
    x_label: str
    y_label: str
    drawstyle: Any
    points: Callable[[Array, Array], tuple[Array, Array]]  # x and y, of positives bool [N] and scores [N]
    chance: Callable[[float], list[float]]  # y at x = 0 and 1 of a score that knows nothing, from the class's share


@dataclass(frozen=True)
class _Drawn:
    """The curve of one class: its look, the area under it, the class's share of the images, the points."""

    name: str
    colour: str
    linestyle: str
    area: Estimate
    share: float
    x: Array
    y: Array


def _roc_points(positives: Array, scores: Array) -> tuple[Array, Array]:
    false_positive_rate, true_positive_rate, _ = roc_curve(positives, scores)
    return false_positive_rate, true_positive_rate


def _precision_recall_points(positives: Array, scores: Array) -> tuple[Array, Array]:
    precision, recall, _ = precision_recall_curve(positives, scores)
    precision[-1] = precision[-2]  # the last is a PPV of 1 at a recall of 0, which no threshold has
    return recall, precision


_ROC = _Curve(
    "auc", "AUROC", "1 − specificity", "sensitivity", "default", _roc_points, lambda share: [0.0, 1.0],
)  # fmt: skip
_PRECISION_RECALL = _Curve(
    "average_precision", "Average precision", "sensitivity (recall)", "PPV (precision)", "steps-post",
    _precision_recall_points, lambda share: [share, share],
)  # fmt: skip


def roc(report: Report, truth: Array, probabilities: Array) -> Figure | None:
    """Draw one ROC curve per class, in a panel per class if there are more than ten; None without any curve."""
    return _curves(_ROC, report, truth, probabilities)


def precision_recall(report: Report, truth: Array, probabilities: Array) -> Figure | None:
    """Draw one precision-recall curve per class; the dotted line of a panel is the class's share of the images."""
    return _curves(_PRECISION_RECALL, report, truth, probabilities)


def _curves(kind: _Curve, report: Report, truth: Array, probabilities: Array) -> Figure | None:
    classes = report.confusion_matrix.classes
    areas = {c: report.per_class[name].metrics[kind.area] for c, name in enumerate(classes)}
    there = sorted((c for c in areas if not math.isnan(areas[c].value)), key=lambda c: -areas[c].value)
    if not there:
        return None
    few = len(classes) <= len(COLOURS)
    names, colours = labels(classes, 24), colours_of(len(classes))
    curves = [
        _Drawn(
            names[c], colours[c], "-" if c < len(COLOURS) // 2 else "--", areas[c], float((truth == c).mean()),
            *kind.points(truth == c, probabilities[:, c]),
        )
        for c in there
    ]  # fmt: skip
    with styled(classes):
        return (_curves_together if few else _curves_apart)(kind, curves)


def _curves_together(kind: _Curve, curves: list[_Drawn]) -> Figure:
    lines = sum(it.name.count("\n") + 1 for it in curves)
    made = _figure(7.6, max(4.6, 0.15 * lines + 0.07 * len(curves) + 0.8))
    axes = made.add_subplot()
    for it in curves:
        axes.plot(
            it.x, it.y, color=it.colour, linestyle=it.linestyle, linewidth=1.6, drawstyle=kind.drawstyle,
            label=f"{it.name}  {it.area.text(2)}", clip_on=False,
        )  # fmt: skip
    if kind is _ROC:  # chance is the same for all classes
        axes.plot([0, 1], kind.chance(0), color=FAINT, linewidth=0.8, linestyle=":")
    _unit_square(axes)
    axes.set(xlabel=kind.x_label, ylabel=kind.y_label, title=f"{kind.title}, each class against all others")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), title=f"{kind.title} (95 % interval)", alignment="left",
        title_fontsize=8.5, fontsize=8.5, handlelength=2.4,
    )  # fmt: skip
    return made


def _curves_apart(kind: _Curve, curves: list[_Drawn]) -> Figure:
    columns = 4
    rows = math.ceil(len(curves) / columns)
    made = _figure(2.15 * columns, (2.1 + 0.13 * _lines([it.name for it in curves])) * rows + 0.4)
    panels = made.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, it in zip(panels, curves, strict=False):
        axes.plot(it.x, it.y, color=it.colour, linewidth=1.6, drawstyle=kind.drawstyle, clip_on=False)
        axes.plot([0, 1], kind.chance(it.share), color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_title(f"{it.name}\n{it.area.text(2)}", fontsize=8)
    for axes in panels:
        _unit_square(axes)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    made.suptitle(f"{kind.title} (95 % interval), each class against all others", x=0.01, ha="left", **_HEADING)
    made.supxlabel(kind.x_label, fontsize=9)
    made.supylabel(kind.y_label, fontsize=9)
    return made


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_xticklabels(["0", "", "0.5", "", "1"])
    axes.set_yticklabels(["0", "", "0.5", "", "1"])
    axes.grid(color=GRID, linewidth=0.8)


# ---- reliability ----------------------------------------------------------------------------------------------


def reliability(report: Report, truth: Array, before: Array, after: Array) -> Figure:
    """Draw accuracy against confidence, bin by bin, of raw and of calibrated probabilities [N, C]."""
    with styled():
        made = _figure(7.6, 4.7)
        panels = made.subplots(2, 2, sharex=True, sharey="row", height_ratios=[4, 1])
        calibration = report.calibration
        temperature = calibration.temperature
        after_title = "After" if temperature is None else f"After, temperature {temperature:.2f}"
        for column, (title, probabilities, estimates) in enumerate(
            [("Before calibration", before, calibration.before), (after_title, after, calibration.after)]
        ):
            _reliability_panel(panels[0, column], panels[1, column], truth, probabilities)
            error = estimates["expected_calibration_error"].text()
            panels[0, column].set_title(title)
            panels[0, column].text(0.03, 0.94, f"ECE {error}", fontsize=8.5, va="top")
            panels[1, column].set_xlabel("confidence: the largest probability")
        panels[0, 0].set_ylabel("accuracy")
        panels[1, 0].set_ylabel("share of\nimages")
    return made


def _reliability_panel(above: Axes, below: Axes, truth: Array, probabilities: Array) -> None:
    bins = metrics.CALIBRATION_BINS
    confidence = probabilities.max(1)
    of_bin = metrics.confidence_bin(confidence, bins)
    count = np.bincount(of_bin, minlength=bins)
    hits = np.bincount(of_bin, weights=probabilities.argmax(1) == truth, minlength=bins)
    accuracy = metrics.ratio(hits, count)
    mean_confidence = metrics.ratio(np.bincount(of_bin, weights=confidence, minlength=bins), count)
    centres, width = (np.arange(bins) + 0.5) / bins, 0.92 / bins
    some = count > 0
    above.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":")
    # A bin of a few images proves little: the fewer, the paler.
    alpha = np.clip(count[some] / 20, 0.25, 1.0)
    colours = [matplotlib.colors.to_rgba(ACCENT, 0.45 * float(a)) for a in alpha]
    above.bar(centres[some], accuracy[some], width=width, color=colours)
    marks = [matplotlib.colors.to_rgba(SECOND, float(a)) for a in alpha]
    above.scatter(mean_confidence[some], accuracy[some], s=16, color=marks, zorder=3, clip_on=False)
    above.set(xlim=(0, 1), ylim=(0, 1))
    above.grid(axis="y", color=GRID, linewidth=0.8)
    below.bar(centres, count / max(1, count.sum()), width=width, color=FAINT)
    below.grid(axis="y", color=GRID, linewidth=0.8)


# ---- decisions ------------------------------------------------------------------------------------------------


def decision_curve(report: Report) -> Figure | None:
    """Draw the net benefit of the model, with its intervals, of treating all and of treating none."""
    curve = report.decision_curve
    if not curve or math.isnan(curve[0].model.value):
        return None
    thresholds = [point.threshold for point in curve]
    model = [point.model.value for point in curve]
    with styled():
        made = _figure(7.6, 4.2)
        axes = made.add_subplot()
        ends = [point.model.low for point in curve], [point.model.high for point in curve]
        axes.fill_between(thresholds, *ends, color=matplotlib.colors.to_rgba(ACCENT, 0.18), linewidth=0)
        axes.plot(thresholds, model, color=ACCENT, linewidth=1.6, label="model (95 % interval)")
        axes.plot(thresholds, [p.treat_all.value for p in curve], color=SECOND, linewidth=1.4, label="treat all")
        axes.axhline(0, color=FAINT, linewidth=0.8, linestyle=":", label="treat none")
        top = max([*model, *filter(math.isfinite, ends[1]), 0.01])
        bottom = min([-0.2 * top, *filter(math.isfinite, ends[0])])  # "treat all" may leave the picture
        axes.set(xlim=(0, thresholds[-1]), ylim=(bottom - 0.05 * top, 1.05 * top))
        axes.set(xlabel="threshold of the risk of malignancy", ylabel="net benefit", title="Decision curve")
        axes.grid(color=GRID, linewidth=0.8)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=3, fontsize=8.5)  # hides no line there
    return made


def risk_coverage(report: Report, truth: Array, probabilities: Array, called: Array) -> Figure | None:
    """Draw the error among the surest answers against their share; None for a set without images."""
    if not len(truth):
        return None
    wrong = called != truth
    errors = deferral.curve(wrong, np.take_along_axis(probabilities, called[:, None], 1)[:, 0])
    kept = np.unique(np.linspace(1, len(wrong), min(len(wrong), 2000)).round().astype(int))
    risk = report.deferral.risk
    with styled():
        made = _figure(7.6, 3.8)
        axes = made.add_subplot()
        # A step to the left, for a share of the answers is rounded up to a whole one.
        axes.plot(kept / len(wrong), errors[kept - 1], color=ACCENT, linewidth=1.4, drawstyle="steps-pre")
        axes.axhline(wrong.mean(), color=FAINT, linewidth=0.8, linestyle=":")
        for at in risk:
            axes.plot([at.coverage] * 2, [at.error.low, at.error.high], color=INK, linewidth=1.2, clip_on=False)
            axes.plot(at.coverage, at.error.value, marker="o", markersize=3.6, color=INK, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1.1 * max([at.error.high for at in risk] + [0.01])))
        axes.set(xlabel="coverage: share of answers kept", ylabel="risk: error among them")
        axes.set_title(f"Risk and coverage, AURC {report.deferral.aurc.text()}")
        axes.grid(color=GRID, linewidth=0.8)
    return made


# ---- classes and subgroups with their intervals ---------------------------------------------------------------


def per_class(report: Report) -> Figure:
    """Draw sensitivity, PPV, F1 and AUROC of each class as bars with their intervals."""
    shown = [metrics.BY_NAME[name] for name in ("sensitivity", "ppv", "f1", "auc")]
    names = zip(labels(list(report.per_class)), report.per_class.values(), strict=True)
    rows = [f"{name}  (n = {of_class.support:,})" for name, of_class in names]
    with styled(report.per_class):
        made = _figure(8.6, 1.3 + max(0.34, 0.16 * _lines(rows) + 0.06) * len(rows))
        panels = made.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, shown, strict=True):
            _bars(axes, [of_class.metrics[metric.name] for of_class in report.per_class.values()])
            axes.set_title(metric.title)
        panels[0].set_yticks(range(len(rows)), rows, linespacing=1.1)
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
    return made


def _bars(axes: Axes, estimates: list[Estimate]) -> None:
    for row, (estimate, colour) in enumerate(zip(estimates, colours_of(len(estimates)), strict=True)):
        value, low, high = estimate.value, estimate.low, estimate.high
        if math.isnan(value):
            axes.text(0.02, row, "not available", va="center", fontsize=7.5, color=FAINT)
            continue
        axes.barh(row, value, height=0.62, color=matplotlib.colors.to_rgba(colour, 0.6))
        if not math.isnan(low):
            axes.plot([low, high], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt", clip_on=False)
        axes.plot(value, row, marker="o", markersize=3.6, color=INK, clip_on=False)
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.spines["left"].set_visible(False)


def subgroups(report: Report) -> Figure:
    """Draw each subgroup's metrics beside those of all images (the dotted line); small groups are hollow."""
    shown = [entry for entry in METRICS if entry.drawn]
    rows: list[tuple[str, Subgroup | None]] = []
    for attribute, result in report.subgroups.items():
        rows.append((label(attribute, 30, 2), None))
        names = zip(labels(list(result.groups), 26, 2), result.groups.values(), strict=True)
        rows += [(f"{name}  (n = {group.images:,})", group) for name, group in names]
    with styled([name for result in report.subgroups.values() for name in result.groups]):
        made = _figure(8.2, 1.3 + max(0.27, 0.15 * _lines([text for text, _ in rows]) + 0.05) * len(rows))
        panels = made.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, entry in zip(panels, shown, strict=True):
            axes.set_title(entry.title)
            of_groups = [(place, group) for place, (_, group) in enumerate(rows) if group is not None]
            _subgroup_panel(axes, entry, report, of_groups)
        panels[0].set_yticks(range(len(rows)), [text for text, _ in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        for tick, (_, group) in zip(panels[0].get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if group is None else "normal")
    return made


def _subgroup_panel(axes: Axes, entry: SubgroupMetric, report: Report, groups: list[tuple[int, Subgroup]]) -> None:
    """Draw one metric of `groups`, each at its place."""
    of_all = report.metrics[entry.name].value
    if not math.isnan(of_all):
        axes.axvline(of_all, color=FAINT, linewidth=0.8, linestyle=":")
    for place, group in groups:
        if not math.isnan(group.metrics[entry.name].value):
            _interval(axes, place, group.metrics[entry.name], hollow=group.small)
        else:
            of_axes = axes.get_yaxis_transform()  # x in shares of the panel
            axes.text(0.02, place, "not available", va="center", fontsize=7.5, color=FAINT, transform=of_axes)
    axes.set_xlim(*_range([group.metrics[entry.name] for _, group in groups]))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.spines["left"].set_visible(False)


def _range(estimates: list[Estimate]) -> tuple[float, float]:
    """Return an axis from below the lowest interval, or value without one, in tenths, to 1."""
    lowest = min([e.value if math.isnan(e.low) else e.low for e in estimates if not math.isnan(e.value)], default=0.0)
    return max(0.0, math.floor(10 * lowest - 0.1) / 10), 1.0


def _interval(axes: Axes, row: int, estimate: Estimate, hollow: bool) -> None:
    if not math.isnan(estimate.low):
        colour = FAINT if hollow else ACCENT
        axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(
        estimate.value, row, marker="o", markersize=4.5, color=FAINT if hollow else ACCENT,
        markerfacecolor="white" if hollow else ACCENT, clip_on=False,
    )  # fmt: skip


# ---- the flow of the images -----------------------------------------------------------------------------------


def flow(report: Report) -> Figure | None:
    """Draw the way of the images from the data to the metrics as boxes (STARD, item 24); None if it is not known."""
    if report.population is None:
        return None
    found, about = report.population.flow, report.about

    def said(amount: Amount) -> str:
        groups = "" if found.groups_are == "images" else f"\n{amount.groups:,} {found.groups_are}"
        told = amount.lesions is None or found.groups_are == "lesions"
        lesions = "" if told else f"\n{amount.lesions:,} lesions"
        return f"{amount.images:,} images{groups}{lesions}"

    left_out = [label(it.reason, 44, 2) for it in found.left_out] or ["none"]
    name = label(about.data_name, 30, 1)
    others = [
        f"{name}: {said(amount)}".replace("\n", ", ") for name, amount in found.splits.items() if name != about.split
    ]
    unknown = f"Of classes that the model lacks\n{found.unknown_class:,} images" if found.unknown_class else ""
    split = "" if about.split == "all" else ", out of fold" if about.split == FOLDS else f", {about.split} split"
    boxes = [  # each step, and what leaves the way there
        (f"Found in {name}\n{found.found:,} images", "\n".join(["Left out", *left_out])),
        (f"Used\n{said(found.used)}", "\n".join(["Not evaluated here", *others]) if others else ""),
        (f"Evaluated{split}\n{said(found.evaluated)}", unknown),
        (f"Counted in the metrics\n{report.images:,} images", ""),
    ]
    with styled(text for pair in boxes for text in pair):
        return _boxes(boxes)


def _boxes(boxes: list[tuple[str, str]]) -> Figure:
    """Draw boxes from top to bottom, with an arrow from each to the next and to the one beside it, if any."""
    heights = [0.4 + 0.17 * max(text.count("\n") + 1 for text in pair) for pair in boxes]
    gap, centre, beside = 0.3, 1.9, 4.1  # inches
    made = _figure(7.6, sum(heights) + gap * len(heights))
    axes = made.add_subplot()
    axes.set_axis_off()
    look: Any = {"boxstyle": "round,pad=0.5,rounding_size=0.15", "facecolor": "white", "edgecolor": FAINT}
    y = 0.0
    for row, ((text, aside), height) in enumerate(zip(boxes, heights, strict=True)):
        middle = y - height / 2
        y -= height + gap
        if row + 1 < len(boxes):
            lines = boxes[row + 1][0].count("\n") + 1
            top = y - heights[row + 1] / 2 + 0.085 * lines + 0.1
            axes.annotate("", (centre, top), (centre, middle), arrowprops=_ARROW)
        if aside:
            axes.annotate("", (beside, middle), (centre, middle), arrowprops=_ARROW)
            axes.text(beside + 0.1, middle, aside, va="center", fontsize=8.5, linespacing=1.4, bbox=look)
        axes.text(centre, middle, text, va="center", ha="center", fontsize=9, linespacing=1.4, bbox=look)
    axes.set(xlim=(0, 7.6), ylim=(y + gap, 0))
    return made


# ---- contact sheets ---------------------------------------------------------------------------------------------


def contact_sheet(
    title: str, pictures: list[Array], captions: list[tuple[str, str, str]], most_columns: int = 5
) -> Figure:
    """Draw pictures uint8 [S, S, 3] side by side; a caption is the name above, and two texts below."""
    columns = min(most_columns, max(1, len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    with styled(text for caption in captions for text in caption):
        below = [f"{label(first, 27, 2)}\n{label(second, 27, 3)}" for _, first, second in captions]
        above = [label(name, 29, 2) for name, *_ in captions]
        lines = _lines(above) + _lines(below)
        made = _figure(1.8 * columns + 0.2, (1.75 + 0.13 * lines) * rows + 0.35)
        panels = made.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, picture, name, said in zip(panels, pictures, above, below, strict=False):
            axes.imshow(picture, interpolation="bilinear")
            axes.text(0, 1.03, name, transform=axes.transAxes, fontsize=6.5, color=FAINT, va="bottom")
            axes.text(0, -0.03, said, transform=axes.transAxes, fontsize=7.5, va="top", linespacing=1.2)
        made.suptitle(title, x=0.01, ha="left", **_HEADING)
    return made
