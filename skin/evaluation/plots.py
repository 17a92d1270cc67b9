"""Draw the pictures of a report, as a journal would print them.

Each function draws one picture from a report and the model's predictions, and returns a new matplotlib figure.
Nothing global changes, so the pictures may be drawn in any order and place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from skin.evaluation import metrics
from skin.evaluation.intervals import Estimate
from skin.evaluation.metrics import Array
from skin.evaluation.report_types import Report, Subgroup
from skin.evaluation.subgroups import METRICS, SubgroupMetric
from skin.utils.errors import printable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

INK, FAINT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
ACCENT, SECOND = "#1b5e9b", "#c8553d"
# Ten colours that stay apart for most colour-blind readers; more classes get a panel each.
COLOURS = (
    "#1b5e9b", "#c8553d", "#3a9276", "#d99a2b", "#7a4fa3", "#5fa8d3", "#8c6d46", "#c4679b", "#6b7680", "#93a82f",
)  # fmt: skip
DPI = 150
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelcolor": INK, "axes.edgecolor": FAINT, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "text.color": INK, "xtick.color": FAINT,
    "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False,
    "text.parse_math": False, "axes.axisbelow": True,
}  # fmt: skip
_HEADING: Any = {"fontweight": "bold", "fontsize": 10}


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.08), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _label(name: str, length: int = 22) -> str:
    """Return a class name that fits beside an axis, in letters that the font has."""
    safe = printable(name, limit=length)
    return "".join(c if ord(c) < 0x2500 else "\N{REPLACEMENT CHARACTER}" for c in safe)


# ---- the confusion matrix -------------------------------------------------------------------------------------


def confusion_matrix(report: Report) -> Figure:
    """Draw counts, and the share of each true class (row), which is also the colour."""
    classes, counts = report.confusion_matrix.classes, np.array(report.confusion_matrix.counts)
    size = len(classes)
    shares = metrics.ratio(counts, counts.sum(1, keepdims=True))
    with _styled():
        cell = 0.72 if size <= 10 else 0.5
        names = [_label(name) for name in classes]
        longest = 0.078 * max(map(len, names))  # inches
        slanted = longest > cell
        side = max(2.2, cell * size)
        figure = _figure(side + longest + 1.5, side + (0.75 * longest if slanted else 0.2) + 0.8)
        axes = figure.add_subplot()
        axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
        font = 8.5 if size <= 10 else 6.5
        for i, j in np.ndindex(size, size):
            if counts[i, j] == 0:
                continue
            colour = "white" if shares[i, j] > 0.55 else INK
            axes.text(
                j, i, f"{counts[i, j]:,}\n{_percent(float(shares[i, j]))}", ha="center", va="center", color=colour,
                fontsize=font, fontweight="bold" if i == j else "normal", linespacing=1.25,
            )  # fmt: skip
        axes.set_xticks(range(size), names, rotation=45 if slanted else 0, ha="right" if slanted else "center")
        if slanted:
            for tick in axes.get_xticklabels():
                tick.set_rotation_mode("anchor")
        totals = counts.sum(1)
        axes.set_yticks(range(size), [f"{name}  (n = {n:,})" for name, n in zip(names, totals, strict=True)])
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title("Images and row shares")
    return figure


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


def _roc_points(positives: Array, scores: Array) -> tuple[Array, Array]:
    false_positive_rate, true_positive_rate, _ = roc_curve(positives, scores)
    return false_positive_rate, true_positive_rate


def _precision_recall_points(positives: Array, scores: Array) -> tuple[Array, Array]:
    precision, recall, _ = precision_recall_curve(positives, scores)
    return recall, precision


_ROC = _Curve(
    "auc", "AUROC", "1 − specificity", "sensitivity", "default", _roc_points, lambda share: [0.0, 1.0],
)  # fmt: skip
_PRECISION_RECALL = _Curve(
    "average_precision", "Average precision", "sensitivity (recall)", "PPV (precision)", "steps-post",
    _precision_recall_points, lambda share: [share, share],
)  # fmt: skip


def roc(report: Report, labels: Array, probabilities: Array) -> Figure | None:
    """Draw one ROC curve per class, in a panel per class if there are more than ten; None without any curve."""
    return _curves(_ROC, report, labels, probabilities)


def precision_recall(report: Report, labels: Array, probabilities: Array) -> Figure | None:
    """Draw one precision-recall curve per class; the dotted line of a panel is the class's share of the images."""
    return _curves(_PRECISION_RECALL, report, labels, probabilities)


def _curves(kind: _Curve, report: Report, labels: Array, probabilities: Array) -> Figure | None:
    classes = report.confusion_matrix.classes
    areas = {c: report.per_class[name].metrics[kind.area] for c, name in enumerate(classes)}
    there = sorted((c for c in areas if not math.isnan(areas[c].value)), key=lambda c: -areas[c].value)
    curves = [
        (classes[c], areas[c], float((labels == c).mean()), *kind.points(labels == c, probabilities[:, c]))
        for c in there
    ]
    if not curves:
        return None
    with _styled():
        return (_curves_together if len(curves) <= len(COLOURS) else _curves_apart)(kind, curves)


def _curves_together(kind: _Curve, curves: list[tuple[str, Any, float, Array, Array]]) -> Figure:
    figure = _figure(7.6, 4.6)
    axes = figure.add_subplot()
    for colour, (name, area, _, x, y) in zip(COLOURS, curves, strict=False):
        text = f"{_label(name)}  {area.text(2)}"
        axes.plot(x, y, color=colour, linewidth=1.6, drawstyle=kind.drawstyle, label=text, clip_on=False)
    if kind is _ROC:  # chance is the same for all classes
        axes.plot([0, 1], kind.chance(0), color=FAINT, linewidth=0.8, linestyle=":")
    _unit_square(axes)
    axes.set(xlabel=kind.x_label, ylabel=kind.y_label, title=f"{kind.title}, each class against all others")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), title=f"{kind.title} (95 % interval)", alignment="left",
        title_fontsize=8.5, fontsize=8.5,
    )  # fmt: skip
    return figure


def _curves_apart(kind: _Curve, curves: list[tuple[str, Any, float, Array, Array]]) -> Figure:
    columns = 5
    rows = math.ceil(len(curves) / columns)
    figure = _figure(2.1 * columns, 2.2 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (name, area, share, x, y) in zip(panels, curves, strict=False):
        axes.plot(x, y, color=ACCENT, linewidth=1.6, drawstyle=kind.drawstyle, clip_on=False)
        axes.plot([0, 1], kind.chance(share), color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_title(f"{_label(name, 24)}\n{area.text(2)}", fontsize=7.5)
    for axes in panels:
        _unit_square(axes)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    figure.suptitle(f"{kind.title} (95 % interval), each class against all others", x=0.01, ha="left", **_HEADING)
    figure.supxlabel(kind.x_label, fontsize=9)
    figure.supylabel(kind.y_label, fontsize=9)
    return figure


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_xticklabels(["0", "", "0.5", "", "1"])
    axes.set_yticklabels(["0", "", "0.5", "", "1"])
    axes.grid(color=GRID, linewidth=0.8)


# ---- reliability ----------------------------------------------------------------------------------------------


def reliability(report: Report, labels: Array, before: Array, after: Array) -> Figure:
    """Draw accuracy against confidence, bin by bin, of raw and of calibrated probabilities [N, C]."""
    with _styled():
        figure = _figure(7.6, 4.7)
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[4, 1])
        calibration = report.calibration
        temperature = calibration.temperature
        after_title = "After" if temperature is None else f"After, temperature {temperature:.2f}"
        for column, (title, probabilities, estimates) in enumerate(
            [("Before calibration", before, calibration.before), (after_title, after, calibration.after)]
        ):
            _reliability_panel(panels[0, column], panels[1, column], labels, probabilities)
            error = estimates["expected_calibration_error"].text()
            panels[0, column].set_title(title)
            panels[0, column].text(0.03, 0.94, f"ECE {error}", fontsize=8.5, va="top")
            panels[1, column].set_xlabel("confidence: probability of the predicted class")
        panels[0, 0].set_ylabel("accuracy")
        panels[1, 0].set_ylabel("share of\nimages")
    return figure


def _reliability_panel(above: Axes, below: Axes, labels: Array, probabilities: Array) -> None:
    bins = metrics.CALIBRATION_BINS
    confidence = probabilities.max(1)
    of_bin = metrics.confidence_bin(confidence, bins)
    count = np.bincount(of_bin, minlength=bins)
    hits = np.bincount(of_bin, weights=probabilities.argmax(1) == labels, minlength=bins)
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
    with _styled():
        figure = _figure(7.6, 4.2)
        axes = figure.add_subplot()
        ends = [point.model.low for point in curve], [point.model.high for point in curve]
        axes.fill_between(thresholds, *ends, color=matplotlib.colors.to_rgba(ACCENT, 0.18), linewidth=0)
        axes.plot(thresholds, model, color=ACCENT, linewidth=1.6, label="model (95 % interval)")
        axes.plot(thresholds, [p.treat_all.value for p in curve], color=SECOND, linewidth=1.4, label="treat all")
        axes.axhline(0, color=FAINT, linewidth=0.8, linestyle=":", label="treat none")
        top = max([*model, 0.01])
        axes.set(xlim=(0, thresholds[-1]), ylim=(-0.3 * top, 1.25 * top))
        axes.set(xlabel="threshold of the risk of malignancy", ylabel="net benefit", title="Decision curve")
        axes.grid(color=GRID, linewidth=0.8)
        axes.legend(loc="upper right", fontsize=8.5)
    return figure


def risk_coverage(report: Report, labels: Array, probabilities: Array) -> Figure | None:
    """Draw the error among the surest answers against their share; None for a set without images."""
    if not len(labels):
        return None
    order = np.argsort(-probabilities.max(1), kind="stable")
    wrong = (probabilities.argmax(1) != labels)[order]
    kept = np.arange(1, len(wrong) + 1)
    step = max(1, len(wrong) // 2000)
    risk = report.deferral.risk
    with _styled():
        figure = _figure(7.6, 3.8)
        axes = figure.add_subplot()
        axes.plot((kept / len(wrong))[::step], (np.cumsum(wrong) / kept)[::step], color=ACCENT, linewidth=1.4)
        axes.axhline(wrong.mean(), color=FAINT, linewidth=0.8, linestyle=":")
        for at in risk:
            axes.plot([at.coverage] * 2, [at.error.low, at.error.high], color=INK, linewidth=1.2)
            axes.plot(at.coverage, at.error.value, marker="o", markersize=3.6, color=INK, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1.1 * max([at.error.high for at in risk] + [0.01])))
        axes.set(xlabel="coverage: share of answers kept", ylabel="risk: error among them")
        axes.set_title(f"Risk and coverage, AURC {report.deferral.aurc.text()}")
        axes.grid(color=GRID, linewidth=0.8)
    return figure


# ---- classes and subgroups with their intervals ---------------------------------------------------------------


def per_class(report: Report) -> Figure:
    """Draw sensitivity, PPV, F1 and AUROC of each class as bars with their intervals."""
    shown = [metrics.BY_NAME[name] for name in ("sensitivity", "ppv", "f1", "auc")]
    rows = [f"{_label(name)}  (n = {of_class.support:,})" for name, of_class in report.per_class.items()]
    with _styled():
        figure = _figure(8.6, 1.3 + 0.34 * len(rows))
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, shown, strict=True):
            _bars(axes, [of_class.metrics[metric.name] for of_class in report.per_class.values()])
            axes.set_title(metric.title)
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _bars(axes: Axes, estimates: list[Estimate]) -> None:
    for row, estimate in enumerate(estimates):
        value, low, high = estimate.value, estimate.low, estimate.high
        if math.isnan(value):
            axes.text(0.02, row, "not available", va="center", fontsize=7.5, color=FAINT)
            continue
        axes.barh(row, value, height=0.62, color=matplotlib.colors.to_rgba(ACCENT, 0.45))
        if not math.isnan(low):
            axes.plot([low, high], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt", clip_on=False)
        axes.plot(value, row, marker="o", markersize=3.6, color=INK, clip_on=False)
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def subgroups(report: Report) -> Figure:
    """Draw each subgroup's metrics beside those of all images (the dotted line); small groups are hollow."""
    shown = [entry for entry in METRICS if entry.compared]
    rows: list[tuple[str, Subgroup | None]] = []
    for attribute, result in report.subgroups.items():
        rows.append((_label(attribute, 30), None))
        rows += [(f"{_label(name)}  (n = {group.images:,})", group) for name, group in result.groups.items()]
    with _styled():
        figure = _figure(8.2, 1.3 + 0.27 * len(rows))
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, entry in zip(panels, shown, strict=True):
            axes.set_title(entry.title)
            of_groups = [(place, group) for place, (_, group) in enumerate(rows) if group is not None]
            _subgroup_panel(axes, entry, report, of_groups)
        panels[0].set_yticks(range(len(rows)), [text for text, _ in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        for tick, (_, group) in zip(panels[0].get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if group is None else "normal")
    return figure


def _subgroup_panel(axes: Axes, entry: SubgroupMetric, report: Report, groups: list[tuple[int, Subgroup]]) -> None:
    """Draw one metric of `groups`, each at its place."""
    of_all = report.metrics[entry.name].value
    if not math.isnan(of_all):
        axes.axvline(of_all, color=FAINT, linewidth=0.8, linestyle=":")
    for place, group in groups:
        if not math.isnan(group.metrics[entry.name].value):
            _interval(axes, place, group.metrics[entry.name], hollow=group.small)
    axes.set_xlim(*_range([group.metrics[entry.name] for _, group in groups]))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _range(estimates: list[Estimate]) -> tuple[float, float]:
    """Return an axis from below the lowest interval, in tenths, to 1."""
    lowest = min([e.low for e in estimates if not math.isnan(e.low)], default=0.0)
    return max(0.0, math.floor(10 * lowest - 0.1) / 10), 1.0


def _interval(axes: Axes, row: int, estimate: Estimate, hollow: bool) -> None:
    if not math.isnan(estimate.low):
        colour = FAINT if hollow else ACCENT
        axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(
        estimate.value, row, marker="o", markersize=4.5, color=FAINT if hollow else ACCENT,
        markerfacecolor="white" if hollow else ACCENT, clip_on=False,
    )  # fmt: skip


# ---- the mistakes ---------------------------------------------------------------------------------------------


def mistakes(pictures: list[Array], captions: list[tuple[str, str, str]]) -> Figure:
    """Draw a contact sheet of pictures uint8 [S, S, 3]; a caption is name, true class and prediction."""
    columns = min(5, max(1, len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    with _styled():
        figure = _figure(1.75 * columns + 0.2, 2.3 * rows + 0.35)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, picture, (name, truth, said) in zip(panels, pictures, captions, strict=False):
            axes.imshow(picture, interpolation="bilinear")
            axes.text(0, 1.03, _label(name, 24), transform=axes.transAxes, fontsize=6.5, color=FAINT, va="bottom")
            axes.text(
                0, -0.03, f"is {_label(truth, 26)}\nsaid {_label(said, 26)}", transform=axes.transAxes, fontsize=7.5,
                va="top", linespacing=1.3,
            )  # fmt: skip
        figure.suptitle("The most confident mistakes", x=0.01, ha="left", **_HEADING)
    return figure
