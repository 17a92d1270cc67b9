"""A set of painted lesions in the HAM10000 layout: something to train on with no download.

    path = demo.write(Path("demo"), images=700, seed=0)

Each lesion is painted once, as a map of how much light it lets through; each of its images is another view of that
map on skin, some under hair. One lesion in four borrows from the traits of another class, so that classes overlap.
The pictures teach the program, not medicine.
"""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skin.utils.errors import UserError, printable
from skin.utils.files import lock

import cv2
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 300, 225
FEWEST_LESIONS = 6  # of a class, so that 70/20/10 finds one for each split
FEWEST_IMAGES = 70
VERSION = 2  # of the pictures: a folder of another version is painted anew
LOCK_SECONDS = 600.0  # that a process waits while another paints the same set
MARKER = "demo.json"  # written last: a folder that has it is whole

_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
_MAP = 160  # side of a lesion's map in pixels
_SPAN = 3.6  # side of a lesion's map in radii of the lesion
_SKINS = np.array([(240, 204, 192), (178, 126, 100)])  # the lightest and the darkest


@dataclass(frozen=True)
class Kind:
    """A class: its share of the images, its patients, and the typical traits of its lesions (see `_TRAITS`).

    Shares are HAM10000's (327, 514, 1099, 115, 1113, 6705, 142) to the power of 0.7: the order and the long tail
    stay, and a small set has enough of the rarest to learn from.
    """

    share: float
    age: int
    dx_types: tuple[str, ...]
    sites: tuple[str, ...]
    traits: tuple[float, ...]


# Radius as a share of half the image's height; raggedness and softness of the border; the light that the main colour
# lets through; then structures, from 0 (absent) to 1 (seen first).
_TRAITS = ("size", "ragged", "soft", "red", "green", "blue", "patches", "network", "veil", "vessels", "dots", "scar")
_HISTO, _OTHER = ("histo",), ("histo", "consensus", "confocal")
#                                                    size ragg soft  red  gree blue patc netw veil vess dots scar
KINDS = {
    "akiec": Kind(.061, 67, _HISTO, ("face", "scalp", "lower extremity", "back", "upper extremity"),
                  (.64, .32, .60, .97, .72, .68, .20, .05, .00, .30, .75, .10)),
    "bcc": Kind(.083, 67, _HISTO, ("face", "back", "chest", "neck", "lower extremity"),
                (.56, .15, .35, .98, .80, .82, .15, .00, .20, .95, .05, .10)),
    "bkl": Kind(.143, 64, _OTHER, ("back", "face", "trunk", "abdomen", "lower extremity"),
                (.64, .12, .15, .78, .63, .50, .45, .10, .00, .05, .80, .00)),
    "df": Kind(.029, 51, _OTHER, ("lower extremity", "upper extremity", "back"),
               (.46, .08, .60, .86, .68, .60, .20, .50, .00, .05, .00, .90)),
    "mel": Kind(.144, 61, _HISTO, ("back", "lower extremity", "upper extremity", "face", "chest"),
                (.70, .36, .25, .58, .43, .38, .95, .40, .65, .10, .05, .10)),
    "nv": Kind(.506, 46, ("follow_up", "histo", "consensus"),
               ("trunk", "lower extremity", "back", "abdomen", "foot", "upper extremity"),
               (.56, .10, .36, .70, .53, .45, .40, .60, .03, .02, .05, .00)),
    "vasc": Kind(.034, 51, _OTHER, ("trunk", "abdomen", "back", "chest", "unknown"),
                 (.38, .10, .20, .68, .26, .38, .50, .10, .10, .30, .00, .00)),
}  # fmt: skip


def write(folder: Path, images: int = 700, seed: int = 0) -> Path:
    """Make the demo set in `folder`, or find it there; either way `folder` is returned, whole.

    The same arguments give the same files, byte for byte. It is painted beside `folder` and moved into
    place at the end, so a killed run leaves nothing that looks complete; two processes do it once.

    Args:
        folder: must be absent, empty, or a demo set (one made with other arguments is replaced).
        images: at least 70, for seven classes of at least six lesions.
        seed: at least 0.

    Raises:
        UserError: `folder` holds something else or cannot be written, or there are too few images.
    """
    if images < FEWEST_IMAGES or seed < 0:
        raise UserError(f"the demo set needs at least {FEWEST_IMAGES} images and a seed of 0 or more")
    marker = {"version": VERSION, "images": images, "seed": seed}
    partial, lock_file = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = lock(lock_file, LOCK_SECONDS)
        try:
            if _marker(folder) != marker:
                shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
                _paint_all(partial, images, seed)
                (partial / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
                _replace(folder, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):  # Windows removes no file that is open
                lock_file.unlink()
            if held is not None:
                held.release()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the demo set to {printable(folder)}: {reason}") from error
    return folder


def is_drawn(folder: Path) -> bool:
    """Return True if a data folder is a demo set, by whatever option it came to be used."""
    return _marker(folder) is not None


def _marker(folder: Path) -> object:
    """Return the contents of a folder's marker; None if there is no whole demo set."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _replace(folder: Path, partial: Path) -> None:
    if folder.exists():
        names = {path.name for path in folder.iterdir()}
        ours = _marker(folder) is not None and names <= {MARKER, "HAM10000_metadata.csv", *_FOLDERS}
        if names and not ours:
            raise UserError(f"{printable(folder)} holds other files; name another folder for the demo set")
        shutil.rmtree(folder)
    partial.rename(folder)


@dataclass(frozen=True)
class _Lesion:
    number: int
    dx: str
    views: int


def _rng(seed: int, stream: int, number: int) -> np.random.Generator:
    """Return a generator for each thing that is drawn, so that no image depends on another."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, 4 * number + stream], np.uint64)))


def _lesions(images: int, seed: int) -> list[_Lesion]:
    """Return the lesions in shuffled order: `images` views in total, 1.35 per lesion on average."""
    rng = _rng(seed, 0, 0)
    counts = {dx: max(FEWEST_LESIONS + 2, round(images * kind.share)) for dx, kind in KINDS.items()}
    counts["nv"] += images - sum(counts.values())
    drawn = []
    for dx, count in counts.items():
        lesions = max(FEWEST_LESIONS, round(count / 1.35))
        views = np.ones(lesions, int) + np.bincount(rng.integers(lesions, size=count - lesions), minlength=lesions)
        drawn += [(dx, int(v)) for v in views]
    return [_Lesion(i, *drawn[j]) for i, j in enumerate(rng.permutation(len(drawn)))]


def _paint_all(folder: Path, images: int, seed: int) -> None:
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True)
    rows: list[tuple[str, ...]] = []
    for lesion in _lesions(images, seed):
        rng = _rng(seed, 1, lesion.number)
        patient = _patient(rng, KINDS[lesion.dx])
        light, radius = _paint_lesion(rng, lesion.dx)
        for _ in range(lesion.views):
            name = f"ISIC_{len(rows):07d}"
            picture = _view(_rng(seed, 2, len(rows)), light, radius)
            Image.fromarray(picture).save(folder / _FOLDERS[2 * len(rows) >= images] / f"{name}.jpg", quality=90)
            rows.append((f"HAM_{lesion.number:07d}", name, lesion.dx, *patient))
    with (folder / "HAM10000_metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])


def _patient(rng: np.random.Generator, kind: Kind) -> tuple[str, str, str, str]:
    """Draw dx_type, age (in steps of five years, sometimes missing), sex and localization."""
    age = int(np.clip(5 * round(rng.normal(kind.age, 14) / 5), 5, 85))
    return (
        str(rng.choice(kind.dx_types)),
        "" if rng.random() < 0.01 else f"{age}.0",
        "unknown" if rng.random() < 0.01 else str(rng.choice(("male", "female"))),
        str(rng.choice(kind.sites)),
    )


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Return a smooth random field, float32 [height, width]: hills of `cell` pixels, with smaller ones on them."""
    fine = rng.standard_normal((int(2 * height / cell) + 5, int(2 * width / cell) + 5), dtype=np.float32)
    coarse = rng.standard_normal((len(fine) // 2, fine.shape[1] // 2), dtype=np.float32)
    hills = cv2.resize(coarse, fine.shape[::-1], interpolation=cv2.INTER_CUBIC) + 0.5 * fine
    return cv2.resize(hills, (width, height), interpolation=cv2.INTER_CUBIC)


def _step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 below `low`, 1 above `high`, and values between them in between."""
    return np.clip((values - low) / (high - low), 0, 1)


def _blend(picture: np.ndarray, colour: tuple[float, float, float], amount: np.ndarray) -> None:
    """Move `picture` [H, W, 3] in place towards `colour`, by `amount` [H, W] (0 to 1) of the way."""
    picture += amount[:, :, None] * (np.array(colour, np.float32) - picture)


def _traits(rng: np.random.Generator, dx: str) -> dict[str, float]:
    """Draw a lesion's own traits: its class's, some of another's, and a spread of its own."""
    other = KINDS[str(rng.choice([name for name in KINDS if name != dx]))]
    share = rng.uniform(0.3, 0.6) if rng.random() < 0.25 else rng.uniform(0, 0.15)
    typical = (1 - share) * np.array(KINDS[dx].traits) + share * np.array(other.traits)
    own = np.minimum(typical * np.exp(rng.normal(0, 0.35, len(typical))), 1)
    own[3:6] = typical[3:6] + rng.normal(0, 0.06) + rng.normal(0, 0.02, 3)  # a colour is darker or lighter as a whole
    return dict(zip(_TRAITS, own.tolist(), strict=True))


def _paint_lesion(rng: np.random.Generator, dx: str) -> tuple[np.ndarray, float]:
    """Return the light that a lesion lets through, float32 [_MAP, _MAP, 3] (1 for bare skin), and its radius
    in pixels of an image."""
    traits = _traits(rng, dx)
    radius = traits["size"] * HEIGHT / 2
    pixel = _MAP / _SPAN / radius  # one pixel of an image, on the map

    def noise(cell: float) -> np.ndarray:
        return _noise(rng, _MAP, _MAP, cell)

    axis = np.linspace(-_SPAN / 2, _SPAN / 2, _MAP, dtype=np.float32)
    outline = np.hypot(axis * rng.uniform(1, 1.3), axis[:, None])
    outline += traits["ragged"] * (0.6 * noise(45) + 0.25 * noise(14))  # below 1 is inside
    dark = traits["patches"] * _step(noise(30) - 0.6 * outline, 0.4 - traits["patches"], 1.8 - traits["patches"])
    walls = traits["network"] * (1 - _step(np.abs(noise(8 * pixel)), 0.1, 0.5))
    light = np.full((_MAP, _MAP, 3), [traits[name] for name in ("red", "green", "blue")], np.float32)
    light *= ((1 + 0.05 * noise(5)) * (1 - 0.75 * dark) * (1 - 0.5 * walls))[:, :, None]
    _blend(light, (0.46, 0.53, 0.63), 0.7 * traits["veil"] * _step(noise(32) - outline, -0.8, 0.6))
    _blend(light, (0.80, 0.24, 0.32), 0.9 * traits["vessels"] * (1 - _step(np.abs(noise(18 * pixel)), 0.05, 0.2)))
    _blend(light, (1.08, 1.02, 0.92), 0.9 * traits["dots"] * _step(noise(7 * pixel), 1.1, 1.6))
    _blend(light, (1.02, 0.93, 0.91), 0.9 * traits["scar"] * np.exp(-((outline / 0.5) ** 2)))
    inside = 1 - _step(outline, 1 - traits["soft"], 1 + traits["soft"] / 2)
    return np.clip(1 + inside[:, :, None] * (light - 1), 0.06, 1.3), radius


def _view(rng: np.random.Generator, light: np.ndarray, radius: float) -> np.ndarray:
    """Return a photograph of a lesion, uint8 [HEIGHT, WIDTH, 3]."""
    zoom = radius * _SPAN / _MAP * rng.uniform(0.85, 1.2)
    turn = np.asarray(cv2.getRotationMatrix2D((_MAP / 2, _MAP / 2), rng.uniform(0, 360), zoom), np.float64)
    turn[:, 2] += np.array([WIDTH, HEIGHT]) * (0.5 + rng.normal(0, 0.05, 2)) - _MAP / 2
    tone = _SKINS[0] + min(rng.exponential(0.25), 1) * (_SKINS[1] - _SKINS[0]) + rng.normal(0, 5, 3)
    picture = cv2.warpAffine(light, turn, (WIDTH, HEIGHT), borderValue=(1, 1, 1)) * tone.astype(np.float32)
    across, down = np.linspace(-1, 1, WIDTH, dtype=np.float32), np.linspace(-0.75, 0.75, HEIGHT, dtype=np.float32)
    lamp = rng.uniform(0.88, 1.1) * (1 - rng.uniform(0.05, 0.25) * (across**2 + down[:, None] ** 2))
    picture = picture * (lamp * (1 + 0.03 * _noise(rng, HEIGHT, WIDTH, 30)))[:, :, None]
    if rng.random() < 0.4:
        hairs = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(int(rng.integers(2, 18))):
            middle, axes = rng.integers((WIDTH, HEIGHT)).tolist(), rng.integers((60, 200), (200, 500)).tolist()
            cv2.ellipse(hairs, middle, axes, rng.normal(0, 30), 0, rng.uniform(15, 60), 200, 1, cv2.LINE_AA)
        _blend(picture, (52, 36, 30), hairs.astype(np.float32) / 255)
    grain = 2.5 * rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    pixels: np.ndarray = np.clip(picture + grain, 0, 255)
    return pixels.astype(np.uint8)
