"""Grad-CAM overlays as files: one per image, under a name that every system takes and no other image has."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from skin.data.image_files import OVERLAY
from skin.model.classifier import Explanation
from skin.utils.errors import UserError
from skin.utils.files import safe_name

LONGEST = 255  # bytes of a file's name


def save_overlay(explanation: Explanation, source: str, folder: Path) -> str:
    """Write the overlay of the image `source` into `folder`, and return its path.

    Raises:
        UserError: it cannot be written there.
    """
    path = folder / overlay_name(source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error
    explanation.save(path)
    return str(path)


def overlay_name(source: str) -> Path:
    """Return the path of an image's overlay in the folder of overlays.

    A relative path keeps its folders. A path that leads out of the working folder becomes its last part and a digest
    of the rest. A name that some system refuses (`a:1.jpg`, `aux.png`) is changed, one that would become too long is
    cut, and gets a digest, too.
    """
    path = Path(os.path.normpath(source))
    if path.is_absolute() or ".." in path.parts:
        path = Path(f"{path.name}.{_digest(path.parent.resolve())}")
    name = path.name + OVERLAY
    safe = Path(*map(safe_name, path.parent.parts), safe_name(name))
    if safe != path.with_name(name) or len(os.fsencode(name)) > LONGEST:  # other names may have become the same
        end = f".{_digest(path)}{OVERLAY}"
        start = os.fsencode(safe.name.removesuffix(OVERLAY))[: LONGEST - len(end)]
        safe = safe.with_name(start.decode("utf-8", "ignore") + end)
    return safe


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
