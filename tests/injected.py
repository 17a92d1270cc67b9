"""Run one of the scripts and let an exception come up somewhere inside it.

    python tests/injected.py POINT COUNT KIND FOLDER train.py --data ...

At the COUNT-th call of POINT (a key of `POINTS`) an exception of KIND (a key of `KINDS`) is raised. The time of that
is written into FOLDER/raised, and the time when it leaves the script's `main` into FOLDER/left: some are caught, as
where a save finds no room. Under torchrun it is raised in the process of rank `SKIN_INJECT_RANK` alone.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from skin.utils import cli

import torch
from torch._utils import ExceptionWrapper


def _memory() -> BaseException:
    """Return what a replica of DataParallel makes of too little memory."""
    try:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    except RuntimeError:
        wrapped = ExceptionWrapper(where="in replica 1 on device 1")
    try:
        wrapped.reraise()
    except RuntimeError as error:
        return error
    raise AssertionError


KINDS: dict[str, Callable[[], BaseException]] = {
    "key": lambda: KeyError("lesion"),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    "memory": _memory,
    "disk": lambda: OSError(errno.ENOSPC, "No space left on device", "best.pt"),
    "value": lambda: ValueError("operands could not be broadcast together"),
    "letter": lambda: UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"),
    "host": lambda: MemoryError(),
    "ctrl-c": lambda: KeyboardInterrupt(),
}

# By script: where, as module and attribute, and how often the tiny runs of tests/endings.py come by there at most.
POINTS: dict[str, dict[str, tuple[str, int]]] = {
    "train.py": {
        "step": ("torch.optim.adam:Adam.step", 8),
        "forward": ("skin.model.network:Classifier.forward", 8),
        "save": ("skin.model.checkpoint:save", 3),
        "rename": ("os:replace", 8),
        "logits": ("train:collect", 2),
        "metrics": ("skin.evaluation.metrics:macro_auc", 2),
        "calibration": ("skin.model.calibration:fit", 1),
        "decode": ("skin.data.dataset:SkinDiseaseDataset.stored", 20),  # in a loader's process, where there is one
        "begin": ("skin.data.dataset:_start_worker", 1),
    },
    "evaluate.py": {
        "features": ("skin.model.network:Classifier.features", 1),
        "decode": ("skin.data.dataset:SkinDiseaseDataset.stored", 4),
        "report": ("skin.evaluation.report:build", 1),
        "rename": ("os:replace", 3),
    },
    "predict.py": {
        "decode": ("skin.model.classifier:read_image", 3),
        "features": ("skin.model.network:Classifier.features", 1),
        "print": ("skin.serving.outputs:_print_line", 2),
    },
}


def inject(script: str, point: str, count: int, kind: str, folder: Path) -> None:
    """Replace the function at `point` by one that raises at its `count`-th call."""
    where, _ = POINTS[script][point]
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function, calls = getattr(owner, name), 0

    def raising(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            (folder / "raised").write_text(str(time.time()))
            raise KINDS[kind]()
        return function(*arguments, **keywords)

    setattr(owner, name, raising)


if __name__ == "__main__":
    point, count, kind, where, script, *arguments = sys.argv[1:]
    main = importlib.import_module(script.removesuffix(".py")).main
    folder, chosen = Path(where), os.environ.get("RANK", "0") == os.environ.get("SKIN_INJECT_RANK", "0")
    if chosen:
        inject(script, point, int(count), kind, folder)
    sys.argv = [script, *arguments]

    def watched() -> int | None:
        try:
            return main()
        except BaseException:
            if chosen:
                (folder / "left").write_text(str(time.time()))
            raise

    cli.run(watched)
