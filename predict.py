"""Predict with a trained model: images in, class probabilities out.

    python predict.py lesion.jpg                     a table on the terminal
    python predict.py photos/ more/*.png --csv out.csv
    find . -name '*.jpg' | python predict.py - --json > answers.jsonl
    torchrun --standalone --nproc-per-node 4 predict.py photos/ --csv out.csv    the images shared over processes
    python predict.py lesion.jpg --explain why/      and show the evidence (Grad-CAM)
    python predict.py lesion.jpg --metadata age=55,sex=female    with what is known beside the pixels
    python predict.py --export model.onnx            the model for other runtimes
    python predict.py --export model.onnx --small    its smallest file that still answers alike

Folders are read with all subfolders, files in the order of their names, in constant memory. An image that
cannot be read is named on stderr and the others are predicted; the exit code is then 1. Probabilities are
calibrated. The 90 % set holds the true class for nine in ten images like those of the training set.

This is research software, not a medical device.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from skin.serving.settings import PredictSettings
from skin.utils import cli

if __name__ == "__main__":  # before torch, which takes seconds to import
    cli.answer_early(PredictSettings, __doc__)

from skin.data.image_files import image_blocks, unread_formats
from skin.model.classifier import Answer, SkinClassifier, load_classifier
from skin.serving import metadata
from skin.serving.outputs import is_terminal, open_outputs
from skin.serving.overlays import save_overlay
from skin.utils import parallel
from skin.utils.driver import unusable_gpus
from skin.utils.errors import UserError, printable
from skin.utils.parallel import Topology
from skin.utils.run_folders import newest_model

SHARE = 512  # images that a process takes at a time, if several share them


def main() -> int:
    settings = cli.parse(PredictSettings, __doc__)
    checkpoint = settings.checkpoint or newest_model()
    with parallel.setup(None) as topology:
        if settings.export and topology.is_main:
            out = sys.stderr if settings.images else sys.stdout  # which answers have to themselves
            say = functools.partial(print, file=out, flush=True)
            say(export(checkpoint, settings.export, settings, say))
        if not settings.images:
            return 0
        warning = unusable_gpus()
        device = str(topology.device) if topology.distributed or warning else None
        model = load_classifier(checkpoint, device=device, amp=settings.amp)
        if topology.is_main:
            if warning:
                print(f"WARNING: {warning}", file=sys.stderr)
            print(f"model {model.description}", file=sys.stderr, flush=True)
        known = metadata.known_of(settings.metadata, model.encoder, quiet=not topology.is_main)
        metadata.ask_for_all(known, settings.images)
        failures = predict_all(model, settings, topology, known)
    return 1 if failures else 0


def export(checkpoint: Path, path: Path, settings: PredictSettings, say: Callable[[str], None]) -> str:
    """Write the model as ONNX; return a line on the file. The imports are here since onnx takes its time to load.

    Args:
        say: takes what there is to say meanwhile.
    """
    if settings.small:
        from skin.evaluation.small import export_small

        return export_small(checkpoint, path, settings.data, settings.labels, say)
    from skin.model import export as full

    return full.export(checkpoint, path)


def predict_all(
    model: SkinClassifier, settings: PredictSettings, topology: Topology, known: metadata.KnownOf | None = None
) -> int:
    """Predict every image and pass the answers to the outputs; return the number of things that cannot be read.

    Under torchrun the processes share the images. Rank 0 reads the names and writes all outputs.

    Raises:
        UserError: the command line names no image, or an output cannot be written.
    """
    failures = done = 0

    def report(name: str, reason: str) -> None:
        nonlocal failures
        failures += 1
        if topology.is_main:
            print(f"cannot read {printable(name)}: {reason}", file=sys.stderr, flush=True)

    start = time.perf_counter()
    passed_over: Counter[str] = Counter()
    blocks = image_blocks(settings.images, report, settings.null, passed_over)
    with open_outputs(settings, model.classes) if topology.is_main else nullcontext(_nowhere) as show:
        for answer, overlay in answers(model, blocks, settings, topology, known):
            if answer.error:
                report(answer.source, answer.error.reason)
            show(answer, overlay)
            done += 1
    if unread := unread_formats(passed_over):
        print(f"WARNING: passed over, in formats that are not read: {unread}", file=sys.stderr, flush=True)
    failures = topology.from_main(failures)  # rank 0 alone knows of folders that cannot be listed
    if not done and not failures:
        raise UserError(f"no images in {', '.join(settings.images)}")
    if done > 1 and topology.is_main and is_terminal(sys.stderr):
        seconds = time.perf_counter() - start
        unread = f", {failures:,} of them could not be read" if failures else ""
        print(f"{done:,} images in {seconds:.1f} s ({done / seconds:.0f} a second){unread}", file=sys.stderr)
    return failures


def _nowhere(answer: Answer[str], overlay: str | None) -> None:
    """Drop an answer, which rank 0 has, too."""


def answers(
    model: SkinClassifier, blocks: Iterator[Iterable[str]], settings: PredictSettings, topology: Topology,
    known: metadata.KnownOf | None = None,
) -> Iterator[tuple[Answer[str], str | None]]:
    """Yield each image's answer and the path of its overlay, in the order of rank 0's `blocks`, in every process.

    If processes share the images, each writes the overlays of its own.

    Args:
        blocks: of paths; the answers to one come before the next is asked for.
    """

    def own(paths: Iterable[str]) -> Iterator[tuple[Answer[str], str | None]]:
        explain = settings.explain is not None
        for answer in model.stream(paths, views=settings.tta, explain=explain, metadata=known):
            overlay = None
            if settings.explain and answer.explanation:
                overlay = save_overlay(answer.explanation, answer.source, settings.explain)
            yield answer, overlay

    if not topology.distributed:
        for block in blocks:
            yield from own(block)
        return
    paths = itertools.chain.from_iterable(blocks)
    while shares := topology.from_main(next_shares(paths, topology.world) if topology.is_main else None):
        found = [(answer._replace(explanation=None), overlay) for answer, overlay in own(shares[topology.rank])]
        yield from itertools.chain.from_iterable(topology.gather(found))


def next_shares(paths: Iterator[str], count: int) -> list[list[str]]:
    """Return the next paths, cut into `count` lists in their order; an empty list after the last path."""
    block = list(itertools.islice(paths, count * SHARE))
    size = -(-len(block) // count)
    return [block[size * n : size * (n + 1)] for n in range(count)] if block else []


if __name__ == "__main__":
    cli.run(main)
