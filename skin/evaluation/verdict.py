"""Say first what a reader must know of a report: do its metrics say what they seem to?"""

from __future__ import annotations

from skin.evaluation.report_types import ClassReport, Report, Verdict
from skin.model.calibration import MOST_PROBABLE

NAMED = 10  # classes
FEW = 30  # images; the sensitivity of a class of fewer is uncertain by a third of the scale


def verdict(report: Report) -> Verdict:
    """Return the verdict on a report, from its warnings, its intervals and the sizes of its classes."""
    present = {name: found for name, found in report.per_class.items() if found.support}
    balanced = report.metrics["balanced_accuracy"]
    doubts = _doubts(report, list(present.values()))
    if report.warnings:
        tell = "do not" if any("TRAINED ON" in warning for warning in report.warnings) else "may not"
        said = f"These metrics {tell} tell how the model does on new images"
        return Verdict("bad", said, [*report.warnings, *doubts])
    if len(present) < 2:
        return Verdict("bad", "The set has too few classes to say how the model tells them apart", doubts)
    said = f"Balanced accuracy is {balanced.text()}; a guess has {1 / len(present):.3f}"
    if not beats_guessing(report):
        return Verdict("bad", f"The model is not shown to be better than guessing. {said}", doubts)
    if doubts:
        return Verdict("doubt", f"The model is better than guessing, but read what follows. {said}", doubts)
    return Verdict("fine", f"The model is better than guessing. {said}", [])


def beats_guessing(report: Report) -> bool:
    """Return True if the balanced accuracy's interval lies above that of a guess among the classes of the set."""
    present = sum(found.support > 0 for found in report.per_class.values())
    return present > 1 and report.metrics["balanced_accuracy"].low > 1 / present


def _doubts(report: Report, present: list[ClassReport]) -> list[str]:
    found = []
    commonest = max((of_class.support for of_class in present), default=0) / max(report.images, 1)
    accuracy = report.decision.most_probable["accuracy"]  # whatever the rule, this is as high as it gets
    if not accuracy.low > commonest:
        rule = "" if report.decision.rule == MOST_PROBABLE else f' by the rule "{MOST_PROBABLE}"'
        found.append(
            f"Accuracy{rule} {accuracy.text()} is not shown to be above {commonest:.3f}, that of always answering "
            "the commonest class"
        )
    if few := [f"{of_class.name}: {of_class.support}" for of_class in present if of_class.support < FEW]:
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        named = ", ".join(few[:NAMED]) + more
        found.append(f"Classes of fewer than {FEW} images, of which the metrics say little: {named}")
    if report.calibration.temperature is None and report.folds is None:
        found.append("The checkpoint holds no calibration: probabilities and prediction sets promise nothing")
    if report.against is not None:
        found += [f"Against {report.against.checkpoint}: {text.removesuffix('.')}" for text in report.against.unfair]
    decision = report.decision
    costs = decision.difference is not None and decision.difference["balanced_accuracy"].low > 0
    if decision.balanced and decision.rule == MOST_PROBABLE and costs:
        accuracy, balanced = (decision.balanced[name] for name in ("accuracy", "balanced_accuracy"))
        found.append(
            "The most probable class is called, which favours the common ones: by the rule \"balanced\" the balanced "
            f"accuracy is {balanced.text()}, and the accuracy {accuracy.text()}"
        )
    return found
