"""The report for people: one document, written as Markdown and as a single HTML file.

`document` turns a report (`report.build`, with what evaluate.py adds) into headings, paragraphs, tables
and pictures; `markdown` and `html` write it. Text from data (class names, file names) is escaped in both.
"""

from __future__ import annotations

import base64
import html as markup
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skin.data.class_names import readable_name
from skin.utils.errors import printable

NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "macro_auc": "Macro AUROC",
    "macro_average_precision": "Macro average precision",
    "cohen_kappa": "Cohen's kappa",
    "log_loss": "Log loss (less is better)",
    "brier_score": "Brier score, 0 to 2 (less is better)",
    "expected_calibration_error": "Expected calibration error (less is better)",
    "top_2_accuracy": "Top-2 accuracy",
    "top_3_accuracy": "Top-3 accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "auc": "AUROC",
    "average_precision": "Average precision",
    "sensitivity_at_90_specificity": "Sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "malignant_sensitivity": "Sensitivity for malignant",
    "malignant_specificity": "Specificity for malignant",
}
PICTURES = {
    "confusion_matrix.png": "Confusion matrix: images, and their share of the true class (row), as the shade.",
    "per_class.png": "Each class with its 95 % intervals.",
    "roc.png": "Receiver operating characteristic of each class against all others.",
    "precision_recall.png": "Precision-recall curve of each class against all others.",
    "reliability.png": "Accuracy against confidence. A bin of few images is pale; dots stand at its mean confidence.",
    "subgroups.png": "Subgroups with 95 % intervals. Dotted: all images. Hollow: fewer than 30 images.",
    "mistakes.png": "The wrong answers that the model was surest of.",
}  # fmt: skip
NOT_A_DEVICE = "Research software, not a medical device. These figures are of this set of images, and of no other."


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str
    loud: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    file: str
    caption: str


Block = Heading | Paragraph | Table | Picture


def figure_text(figure: Mapping[str, Any], digits: int = 3) -> str:
    """A figure as `0.873 (0.851–0.894)`."""
    if figure["value"] is None:
        return "not available"
    interval = "" if figure["low"] is None else f" ({figure['low']:.{digits}f}–{figure['high']:.{digits}f})"
    return f"{figure['value']:.{digits}f}{interval}".replace("-", "\N{MINUS SIGN}")


# ---- the document ---------------------------------------------------------------------------------------------


def document(report: dict[str, Any], pictures: Sequence[str] = ()) -> list[Block]:
    """The report as blocks; `pictures` are the files (of `PICTURES`) that there are."""
    shown = {name: [Picture(name, PICTURES[name])] for name in PICTURES if name in pictures}
    blocks: list[Block] = [Heading(_title(report), 1)]
    blocks += [Paragraph(text, loud=True) for text in report.get("warnings", [])]
    blocks += [Paragraph(_abstract(report)), *_overall(report)]
    blocks += [*shown.get("confusion_matrix.png", []), Heading("Classes"), *_classes(report)]
    blocks += [*shown.get("per_class.png", []), *shown.get("roc.png", []), *shown.get("precision_recall.png", [])]
    blocks += [*_malignant(report), *_calibration(report), *shown.get("reliability.png", [])]
    blocks += [*_subgroups(report), *shown.get("subgroups.png", [])]
    if "mistakes.png" in shown:
        blocks += [Heading("Mistakes"), *shown["mistakes.png"]]
    blocks += [Heading("How these figures were made"), Paragraph(_method(report))]
    blocks += [Paragraph(f"Note: {note}.") for note in report.get("notes", [])]
    return [*blocks, Paragraph(NOT_A_DEVICE)]


def _title(report: dict[str, Any]) -> str:
    about = report.get("about", {})
    model, data = about.get("model", "the model"), about.get("data_name", "a set")
    part = f", {about['split']} part" if about.get("split", "all") != "all" else ""
    return f"Evaluation of {model} on {data}{part}"


def _abstract(report: dict[str, Any]) -> str:
    unit = report["intervals"]["resampled"]
    groups = f" of {report['groups']:,} {unit}" if unit != "images" else ""
    present = sum(1 for figures in report["per_class"].values() if figures["support"])
    return (
        f"{report['images']:,} images{groups}, {present} classes. "
        f"Balanced accuracy {figure_text(report['balanced_accuracy'])}, accuracy {figure_text(report['accuracy'])}, "
        f"macro AUROC {figure_text(report['macro_auc'])}. Always answering the commonest class would give "
        f"an accuracy of {_commonest(report):.3f} and a balanced accuracy of {1 / max(present, 1):.3f}."
    )


def _commonest(report: dict[str, Any]) -> float:
    supports = [figures["support"] for figures in report["per_class"].values()]
    return max(supports) / max(sum(supports), 1)


def _overall(report: dict[str, Any]) -> list[Block]:
    names = [name for name in NAMES if isinstance(report.get(name), dict) and "value" in report[name]]
    rows = [(NAMES[name], figure_text(report[name])) for name in names]
    return [Table("All images, with 95 % intervals.", ("Figure", "Value (95 % interval)"), rows)]


def _classes(report: dict[str, Any]) -> list[Block]:
    classes = report["per_class"].values()
    first, second = ("sensitivity", "specificity", "ppv", "npv"), ("f1", "auc", "average_precision")
    third = ("sensitivity_at_90_specificity", "sensitivity_at_95_specificity")
    blocks: list[Block] = [
        Table(
            "The class that is called: the most probable one.",
            ("Class", "Images", *(NAMES[n] for n in first)),
            [(c["name"], f"{c['support']:,}", *(figure_text(c[n], 2) for n in first)) for c in classes],
        ),
        Table(
            "Each class against all others, by its probability. F1 is of the called class.",
            ("Class", *(NAMES[n] for n in (*second, *third))),
            [(c["name"], *(figure_text(c[n], 2) for n in (*second, *third))) for c in classes],
        ),
    ]
    asked = [c for c in classes if "at_threshold" in c]
    if asked:
        threshold = asked[0]["at_threshold"]["threshold"]
        rows = [(c["name"], *(figure_text(c["at_threshold"][n], 2) for n in first)) for c in asked]
        blocks.append(
            Table(f"A class is called where its probability is above {threshold:g}.",
                  ("Class", *(NAMES[n] for n in first)), rows)
        )  # fmt: skip
    return blocks


def _malignant(report: dict[str, Any]) -> list[Block]:
    two = report.get("malignant")
    if two is None:
        return []
    names = [", ".join(readable_name(c) for c in two[side]) for side in ("malignant", "benign")]
    rows = [(NAMES[name], figure_text(figure)) for name, figure in two.items() if name in NAMES]
    return [
        Heading("Malignant against benign"),
        Paragraph(
            f"Malignant or premalignant: {names[0]}; {two['support']:,} of {report['images']:,} images. "
            f"Benign: {names[1]}. An image is called malignant where the probabilities of the malignant classes add "
            "up to more than a half."
        ),
        Table("Malignant against benign.", ("Figure", "Value (95 % interval)"), rows),
    ]


def _calibration(report: dict[str, Any]) -> list[Block]:
    made = report["calibration"]
    temperature = made["temperature"]
    said = (
        "The checkpoint holds no calibration; the probabilities are the network's own, and nothing is flagged."
        if temperature is None
        else f"Temperature {temperature:.3f}, fitted on {made['validation_images']:,} validation images. All figures "
        "of this report are of the calibrated probabilities."
    )
    rows = [(NAMES[n], figure_text(made["before"][n]), figure_text(made["after"][n])) for n in made["before"]]
    blocks: list[Block] = [Heading("What the probabilities are worth"), Paragraph(said)]
    blocks.append(Table("Before and after calibration.", ("Figure", "Before", "After"), rows))
    if temperature is not None:
        blocks += [_prediction_sets(report), Paragraph(_unlike(made["unlike_training"]))]
    return blocks


def _prediction_sets(report: dict[str, Any]) -> Table:
    sets = report["calibration"]["prediction_sets"]
    levels = list(sets)
    rows = [
        ("All images", *(figure_text(sets[level]["coverage"], 2) for level in levels)),
        *(
            (f["name"], *(figure_text(sets[level]["coverage_by_class"][name], 2) for level in levels))
            for name, f in report["per_class"].items()
        ),
        ("Classes in a set, in the mean", *(figure_text(sets[level]["mean_size"], 2) for level in levels)),
    ]
    few = [
        f" With too few validation images for a {level} % threshold of their own: {', '.join(shared)}."
        for level in levels
        if (shared := sets[level]["shared_threshold"])
    ]
    caption = "Prediction sets: the share of images whose set holds the truth." + "".join(few)
    return Table(caption, ("Class", *(f"{level} % sets" for level in levels)), rows)


def _unlike(flags: dict[str, Any]) -> str:
    text = f"Flagged as unlike the training images: {figure_text(flags['flagged'])} of the images"
    if flags["unknown_class_images"]:
        share = flags["unknown_class_flagged"]
        text += f", and {share:.3f} of the {flags['unknown_class_images']:,} images of classes unknown to it"
    return text + "."


def _subgroups(report: dict[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for attribute, result in report.get("subgroups", {}).items():
        groups = result["groups"]
        columns = [name for name in NAMES if any(name in group for group in groups.values())]
        rows = [
            (name + (" (small)" if g["small"] else ""), f"{g['images']:,}", *(figure_text(g[c], 2) for c in columns))
            for name, g in groups.items()
        ]
        header = ("Group", "Images", *(NAMES[c] for c in columns))
        blocks.append(Table(f"By {attribute}. Groups marked small have fewer than 30 images.", header, rows))
        gaps = [gap_text(name, gap) for name, gap in result["largest_gap"].items() if gap]
        blocks += [Paragraph("Largest gap: " + "; ".join(gaps) + ".")] if gaps else []
    if not blocks:
        return []
    caution = (
        "Balanced accuracy and macro AUROC are over the classes that a group has; groups that differ in their "
        "classes differ in these figures, too. The largest gap of many groups is large by chance alone."
    )
    return [Heading("Subgroups"), *blocks, Paragraph(caution)]


def gap_text(name: str, gap: dict[str, Any]) -> str:
    """Such as `accuracy 0.10 (0.04–0.17) between male (best) and female (worst)`."""
    said = NAMES[name][0].lower() + NAMES[name][1:]
    return f"{said} {figure_text(gap, 2)} between {gap['best']} (best) and {gap['worst']} (worst)"


def _method(report: dict[str, Any]) -> str:
    made, about = report["intervals"], report.get("about", {})
    views = (
        f" Logits are averaged over {about['tta']} turned and mirrored views of each image; temperature, prediction "
        "sets and the flag for unlike images were fitted on one view, so they may fit the average less well."
        if about.get("tta", 1) > 1
        else ""
    )
    return (
        f"Checkpoint {about.get('checkpoint', '?')}; images {about.get('data', '?')} ({about.get('layout', '?')}); "
        f"{about.get('created', '?')}; {about.get('precision', '?')} on {about.get('device', '?')}.{views} "
        f"Intervals: {100 * made['level']:.0f} %, {made['rounds']:,} rounds of a bootstrap over {made['resampled']} "
        f"(seed {made['seed']}); of shares, and of what ranks a class's images, Wilson's with the bootstrap's "
        "variance, widened for the few lesions or patients of a scarce class; of all else, bias-corrected "
        "percentiles. A class of one lesion or patient has no interval of F1, AUROC and average precision. Macro "
        "figures are means over the classes that the set has, and as uncertain as these together; a gap between "
        "subgroups is as uncertain as its two sides. The expected calibration error is too large on small sets; "
        "its interval allows for that. An interval of no width says that no resample differed, which a few images "
        "easily do; it does not say that the figure is certain."
    )


# ---- Markdown -------------------------------------------------------------------------------------------------


def markdown(blocks: Sequence[Block]) -> str:
    """The document as GitHub-flavoured Markdown, pictures beside it."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_plain(block.text)}"
    if isinstance(block, Paragraph):
        return f"> **WARNING: {_plain(block.text)}**" if block.loud else _plain(block.text)
    if isinstance(block, Picture):
        return f"![{_plain(block.caption)}]({block.file})"
    lines = [block.header, ["---", *(["---:"] * (len(block.header) - 1))], *block.rows]
    return "\n".join([_plain(block.caption), "", *(f"| {' | '.join(map(_cell, row))} |" for row in lines)])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", printable(text, limit=2000))


def _cell(text: str) -> str:
    return text if re.fullmatch("-+:?", text) else _plain(text)


# ---- HTML -----------------------------------------------------------------------------------------------------

_STYLE = """
body { margin: 3rem auto; max-width: 54rem; padding: 0 1.5rem; color: #1f2933; background: #fff;
       font: 16px/1.55 Charter, "Bitstream Charter", "Source Serif 4", Georgia, serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1.5rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; border-bottom: 1px solid #cbd2d9; padding-bottom: .25rem; }
p { margin: .75rem 0; overflow-wrap: break-word; }
.warning { border-left: 4px solid #c8553d; background: #fdf3f0; padding: .6rem 1rem; font-weight: 600; }
.wide { overflow-x: auto; margin: 1.25rem 0 1.75rem; }
table { border-collapse: collapse; width: 100%; font: 13px/1.4 "Helvetica Neue", Arial, sans-serif;
        font-variant-numeric: tabular-nums; border-top: 2px solid #1f2933; border-bottom: 2px solid #1f2933; }
caption, figcaption { caption-side: top; text-align: left; font: 14px/1.45 Charter, Georgia, serif; color: #3e4c59;
                      padding: 0 0 .4rem; }
caption b, figcaption b { color: #1f2933; }
th { font-weight: 600; border-bottom: 1px solid #1f2933; vertical-align: bottom; }
th, td { padding: .32rem .5rem; text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr + tr td { border-top: 1px solid #eef1f4; }
td span { white-space: nowrap; }
.many td span { display: block; }
.few { width: auto; min-width: 28rem; }
.na { color: #7b8794; }
figure { margin: 1.75rem 0; }
figcaption { padding: .5rem 0 0; }
img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } figure, tr { break-inside: avoid; } }
"""


def html(blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """The document as one HTML file that needs nothing else: pictures (PNG) inside, no scripts."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    parts, tables, figures = [], 0, 0
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"<h{block.level}>{_escaped(block.text)}</h{block.level}>")
        elif isinstance(block, Paragraph):
            kind = ' class="warning"' if block.loud else ""
            parts.append(f"<p{kind}>{_escaped(block.text)}</p>")
        elif isinstance(block, Table):
            tables += 1
            parts.append(_html_table(block, tables))
        else:
            figures += 1
            data = base64.b64encode(pictures[block.file]).decode("ascii")
            caption = _escaped(block.caption)
            parts.append(
                f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
                f"<figcaption><b>Figure {figures}.</b> {caption}</figcaption></figure>"
            )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _html_table(table: Table, number: int) -> str:
    head = "".join(f'<th scope="col">{_escaped(text)}</th>' for text in table.header)
    rows = "\n".join(
        f"<tr><td>{_escaped(row[0])}</td>{''.join(map(_html_cell, row[1:]))}</tr>" for row in table.rows
    )
    kind = "few" if len(table.header) < 4 else "many" if len(table.header) > 5 else "some"
    return (
        f'<div class="wide"><table class="{kind}">\n'
        f"<caption><b>Table {number}.</b> {_escaped(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _html_cell(text: str) -> str:
    """A value and its interval may stand on two lines; neither is broken."""
    if text == "not available":
        return f'<td class="na">{text}</td>'
    value, bracket, interval = text.partition(" (")
    aside = f" <span>({_escaped(interval)}</span>" if bracket else ""
    return f"<td><span>{_escaped(value)}</span>{aside}</td>"


def _escaped(text: str) -> str:
    return markup.escape(printable(text, limit=2000))
