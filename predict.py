"""Ask a trained model: images in, class probabilities out.

    python predict.py lesion.jpg                     a table on the terminal
    python predict.py photos/ more/*.png --csv out.csv
    find . -name '*.jpg' | python predict.py - --json > answers.jsonl
    torchrun --standalone --nproc-per-node 4 predict.py photos/ --csv out.csv    shared over processes
    python predict.py lesion.jpg --explain why/      and where the evidence lies (Grad-CAM)
    python predict.py --export model.onnx            the model for other runtimes

Folders are read with all below them, files in the order of their names, in constant memory. An image that
cannot be read is named on stderr and the others are predicted; the exit code is then 1. Probabilities are
calibrated; the 90 % set holds the truth for nine images in ten of the kind the model was trained on.

This is research software, not a medical device.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from skin.data.image_files import STDIN, image_paths
from skin.utils import cli
from skin.utils.cli import option
from skin.utils.errors import FORMULA_STARTS, UserError, printable, safe_cell
from skin.utils.files import safe_name
from skin.utils.run_folders import newest_model

if TYPE_CHECKING:
    from skin.model.classifier import Answer, SkinClassifier
    from skin.utils.parallel import Topology

Show = Callable[["Answer[str]", str | None], None]

SHARE = 512  # images a process takes at a time, where several share them


@dataclass(frozen=True)
class Settings:
    images: tuple[str, ...] = option(
        (), "files, folders, patterns, or - for a list of names on stdin", group="what to predict",
        positional=True, nargs="*", metavar="IMAGE",
    )  # fmt: skip
    null: bool = option(False, "names on stdin end with NUL, as from find -print0", group="what to predict")

    checkpoint: Path | None = option(
        None, "the trained model (default: the newest run's)", group="model", metavar="FILE"
    )
    tta: int = option(1, "average over N of the 8 turned and mirrored views", group="model", metavar="N")
    amp: str = option(
        "auto", "precision: auto, fp16, bf16 or off", group="model",
        choices=("auto", "fp16", "bf16", "off"), metavar="A",
    )  # fmt: skip

    top_k: int = option(3, "how many classes to show", group="output", metavar="K")
    json: bool = option(False, "one JSON object a line on stdout", group="output")
    csv: Path | None = option(None, "write a table with all probabilities", group="output", metavar="FILE")
    explain: Path | None = option(
        None, "write Grad-CAM overlays of each most probable class", group="output", metavar="DIR"
    )
    export: Path | None = option(None, "write the model as ONNX", group="output", metavar="FILE")


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    if settings.top_k < 1:
        raise UserError(f"--top-k {settings.top_k}: at least one class must be shown")
    if not 1 <= settings.tta <= 8:
        raise UserError(f"--tta {settings.tta}: there are 8 views of an image; choose 1 to 8")
    if not settings.images and not settings.export:
        raise UserError("nothing to predict: name an image or a folder, or - for a list on stdin; see --help")

    from skin.model.classifier import load_classifier
    from skin.utils import parallel  # only now: a mistyped option need not wait for torch
    from skin.utils.driver import unusable_gpus

    checkpoint = settings.checkpoint or newest_model()
    with parallel.setup(None) as topology:
        if settings.export and topology.is_main:
            from skin.model.export import export

            print(export(checkpoint, settings.export))
        if not settings.images:
            return 0
        warning = unusable_gpus()
        device = str(topology.device) if topology.distributed or warning else None
        model = load_classifier(checkpoint, device=device, amp=settings.amp)
        if topology.is_main:
            if warning:
                print(f"WARNING: {warning}", file=sys.stderr)
            print(f"model {model.description}", file=sys.stderr, flush=True)
        failures = predict_all(model, settings, topology)
    return 1 if failures else 0


def predict_all(model: SkinClassifier, settings: Settings, topology: Topology) -> int:
    """Predict all that is named and put it out; the number of things that could not be read.

    Under torchrun the processes share the images, and rank 0 reads the names and puts all answers out.

    Raises:
        UserError: there is no image in what was named, or an output cannot be written.
    """
    failures = 0

    def report(name: str, reason: str) -> None:
        nonlocal failures
        failures += 1
        if topology.is_main:
            print(f"cannot read {printable(name)}: {reason}", file=sys.stderr, flush=True)

    start, done = time.perf_counter(), 0
    paths = image_paths(settings.images, report, settings.null)
    with ExitStack() as stack:
        shows, advance = _outputs(model, settings, stack) if topology.is_main else ([], lambda images: None)
        for answer, overlay in _answers(model, paths, settings, topology):
            if answer.error:
                report(answer.source, answer.error.reason)
            for show in shows:
                show(answer, overlay)
            done += 1
            advance(1)
    failures = topology.from_main(failures)  # it alone has seen which folders cannot be listed
    if not done and not failures:
        raise UserError(f"no images in {', '.join(settings.images)}")
    if done > 1 and topology.is_main and _is_terminal(sys.stderr):
        seconds = time.perf_counter() - start
        unread = f", {failures:,} of them could not be read" if failures else ""
        print(f"{done:,} images in {seconds:.1f} s ({done / seconds:.0f} a second){unread}", file=sys.stderr)
    return failures


def _answers(
    model: SkinClassifier, paths: Iterator[str], settings: Settings, topology: Topology
) -> Iterator[tuple[Answer[str], str | None]]:
    """Each image's answer and where its overlay is, in the order of rank 0's `paths`, in every process.

    Where processes share the images, each writes the overlays of its own.
    """

    def own(paths: Iterable[str]) -> Iterator[tuple[Answer[str], str | None]]:
        for answer in model.stream(paths, views=settings.tta, explain=settings.explain is not None):
            yield answer, _save_overlay(answer, settings.explain) if settings.explain else None

    if not topology.distributed:
        yield from own(paths)
        return
    while shares := topology.from_main(_shares(paths, topology.world) if topology.is_main else None):
        answers = [(answer._replace(explanation=None), overlay) for answer, overlay in own(shares[topology.rank])]
        yield from itertools.chain.from_iterable(topology.gather(answers))


def _shares(paths: Iterator[str], count: int) -> list[list[str]]:
    """The next paths, cut into `count` lists in their order; none where there are no more paths."""
    block = list(itertools.islice(paths, count * SHARE))
    size = -(-len(block) // count)
    return [block[size * n : size * (n + 1)] for n in range(count)] if block else []


def _outputs(
    model: SkinClassifier, settings: Settings, stack: ExitStack
) -> tuple[list[Show], Callable[[int], None]]:
    """What is done with each answer, and what moves the progress bar."""
    shows: list[Show] = []
    if settings.csv:
        shows.append(_csv_rows(model, settings, stack))
    if settings.json:
        shows.append(lambda answer, overlay: print(_json_line(answer, overlay, settings.top_k), flush=True))
    on_terminal = _is_terminal(sys.stdout)
    if not shows and not on_terminal:
        shows.append(lambda answer, overlay: _print_line(answer, settings.top_k))
    if not on_terminal and not _is_terminal(sys.stderr):
        return shows, lambda images: None

    from skin.serving.terminal import Terminal  # rich takes its time to load, and only a terminal needs it

    total = None
    if STDIN not in settings.images:
        total = sum(1 for _ in image_paths(settings.images, lambda name, reason: None))
    terminal = stack.enter_context(Terminal(sys.stdout if on_terminal else sys.stderr, total))
    if not shows:
        shows.append(lambda answer, overlay: terminal.show(answer, settings.top_k))
    return shows, terminal.advance


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # it is None where it was closed


def _print_line(answer: Answer[str], top_k: int) -> None:
    """One line an image, columns by tabs, for a pipe; an unreadable image has its line on stderr alone."""
    if answer.prediction is None:
        return
    prediction = answer.prediction
    cells = [printable(answer.source, limit=4096)]
    cells += [f"{printable(name)} {probability:.4f}" for name, probability in prediction.top(top_k)]
    cells.append("90 % set: " + ", ".join(printable(name) for name in prediction.prediction_set))
    if prediction.unlike:
        cells.append("unlike the training images")
    print("\t".join(cells), flush=True)


def _json_line(answer: Answer[str], overlay: str | None, top_k: int) -> str:
    """ASCII only, so that any name survives any pipe: undecodable bytes stand as `\\udc..` escapes."""
    row: dict[str, Any] = {"image": answer.source}
    if answer.prediction is None:
        row["error"] = answer.error.reason if answer.error else ""
        return json.dumps(row)
    prediction = answer.prediction
    row |= {
        "class": prediction.label,
        "probability": round(prediction.probability, 6),
        "top": {name: round(probability, 6) for name, probability in prediction.top(top_k)},
        "prediction_set": prediction.prediction_set,
        "unlike": prediction.unlike,
    }
    return json.dumps(row | ({"overlay": overlay} if overlay else {}))


def _csv_rows(model: SkinClassifier, settings: Settings, stack: ExitStack) -> Show:
    """Open the CSV file and write its header; what adds a row an image."""
    path = settings.csv
    assert path is not None
    try:
        file = open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    stack.enter_context(file)
    writer = csv.writer(file, lineterminator="\n")
    overlays = ["overlay"] if settings.explain else []
    columns = ["image", "predicted", "probability", "prediction_set", "unlike", "error", *overlays]
    writer.writerow([*columns, *map(safe_cell, model.classes)])

    def add(answer: Answer[str], overlay: str | None) -> None:
        prediction, name = answer.prediction, _safe_name(answer.source)
        if prediction is None:
            reason = answer.error.reason if answer.error else ""
            cells = [name, "", "", "", "", safe_cell(reason), *([""] * len(overlays))]
            writer.writerow([*cells, *([""] * len(model.classes))])
            return
        cells = [name, safe_cell(prediction.label), f"{prediction.probability:.6f}"]
        cells += [safe_cell(" ".join(prediction.prediction_set)), str(prediction.unlike).lower(), ""]
        cells += [_safe_name(overlay or "")] if overlays else []
        writer.writerow([*cells, *(f"{p:.6f}" for p in prediction.probabilities)])

    return add




def _safe_name(path: str) -> str:
    """What `safe_cell` does, for a path, so that it still names the file: `=1+1.jpg` becomes `./=1+1.jpg`."""
    return f"./{path}" if path.startswith(FORMULA_STARTS) else path


def _save_overlay(answer: Answer[str], folder: Path) -> str | None:
    """Write the answer's overlay into `folder`; its path, or None where the image could not be read."""
    if answer.explanation is None:
        return None
    path = folder / overlay_name(answer.source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error
    answer.explanation.save(path)
    return str(path)


def overlay_name(source: str) -> Path:
    """Where an image's overlay lies in the folder of overlays: a path of its own for each image.

    A relative path keeps its folders; one that leads elsewhere gives its last part and a digest of the rest, and
    one that is no name on every system (`a:1.jpg`, `aux.png`) such a name and a digest of its own.
    """
    path = Path(os.path.normpath(source))
    if path.is_absolute() or ".." in path.parts:
        path = Path(f"{path.name}.{_digest(path.parent.resolve())}")
    name = path.name + ".cam.png"
    safe = Path(*map(safe_name, path.parent.parts), safe_name(name))
    if safe != path.with_name(name):  # others may have become the same
        safe = safe.with_name(f"{safe.name.removesuffix('.cam.png')}.{_digest(path)}.cam.png")
    return safe


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]


if __name__ == "__main__":
    cli.run(main)
