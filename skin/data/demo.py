"""A set of procedural lesion images in the HAM10000 layout: something to train on with no download.

    path = demo.write(Path("demo"), images=700, seed=0)

Each lesion is painted once, from its class's typical traits and its own chance, as a map of how much
light the pigment lets through; each of its images is another view of that map (turned, zoomed, shifted)
on skin, under hair, ruler marks and the dark rim of a dermatoscope. The classes overlap on purpose: one
lesion in four borrows from the look of another class. The pictures teach the program, not medicine.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

from skin.utils.errors import UserError, printable
from skin.utils.files import lock as hold

import cv2
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 300, 225
FEWEST_LESIONS = 6  # in each class, so that 70/20/10 finds one for each part
FEWEST_IMAGES = 70
VERSION = 1  # of the pictures: a folder of another version is painted anew
LOCK_SECONDS = 600.0  # for which a process waits while another paints the same set
MARKER = "demo.json"  # written last: a folder that has it is whole

_PATCH = 200  # side of a lesion's map in pixels, spanning 3.6 times the lesion's radius
_UNITS = 3.6
_PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


@dataclass(frozen=True)
class Look:
    """A class's typical traits. Structures run from 0 (absent) to 1 (what a dermatologist sees first)."""

    size: float  # radius as a share of half the image's height
    elongation: float
    asymmetry: float  # of the outline, low frequencies
    ragged: float  # of the outline, high frequencies
    soft: float  # width of the border as a share of the radius
    red: float  # light let through by the main colour, per channel, 1 = the skin around
    green: float
    blue: float
    dark: float  # depth of the second colour
    mottle: float  # how much the two colours mix
    network: float
    globules: float
    streaks: float
    veil: float  # blue-white
    cysts: float  # white dots, dark openings
    vessels: float  # branching, red
    scar: float  # white centre
    lacunae: float  # red-blue chambers
    scale: float  # whitish flakes


#                 size  elo  asym ragg soft  red  green blue dark mott netw glob stre veil cyst vess scar lacu scal
LOOKS = {
    "akiec": Look(.64, .25, .32, .22, .55, .95, .72, .66, .45, .55, .08, .15, .00, .00, .10, .35, .00, .05, .85),
    "bcc":   Look(.56, .20, .28, .12, .35, .98, .76, .80, .50, .30, .00, .25, .00, .20, .05, .95, .10, .05, .15),
    "bkl":   Look(.64, .25, .22, .12, .16, .78, .63, .52, .45, .50, .10, .10, .00, .05, .90, .05, .00, .00, .25),
    "df":    Look(.46, .10, .10, .08, .60, .86, .68, .60, .30, .20, .55, .05, .00, .00, .05, .05, .90, .00, .05),
    "mel":   Look(.70, .30, .40, .25, .26, .60, .44, .38, .85, .90, .45, .40, .55, .60, .05, .10, .10, .00, .05),
    "nv":    Look(.56, .20, .15, .10, .36, .70, .53, .45, .50, .40, .60, .35, .05, .03, .05, .02, .00, .00, .02),
    "vasc":  Look(.36, .15, .15, .10, .20, .72, .34, .44, .55, .30, .00, .05, .00, .10, .00, .10, .00, .95, .03),
}  # fmt: skip
# HAM10000's own counts are 327, 514, 1099, 115, 1113, 6705, 142; their power of 0.7 keeps the order and
# the long tail, and leaves a small set enough of the rarest to learn from.
SHARES = {"akiec": .061, "bcc": .083, "bkl": .143, "df": .029, "mel": .144, "nv": .506, "vasc": .034}  # fmt: skip

_AGES = {"akiec": 67, "bcc": 67, "bkl": 64, "df": 51, "mel": 61, "nv": 46, "vasc": 51}
_SITES = {
    "akiec": ("face", "scalp", "lower extremity", "back", "upper extremity"),
    "bcc": ("face", "back", "chest", "neck", "lower extremity"),
    "bkl": ("back", "face", "trunk", "abdomen", "lower extremity"),
    "df": ("lower extremity", "upper extremity", "back"),
    "mel": ("back", "lower extremity", "upper extremity", "face", "chest"),
    "nv": ("trunk", "lower extremity", "back", "abdomen", "foot", "upper extremity"),
    "vasc": ("trunk", "abdomen", "back", "chest", "unknown"),
}
_SKINS = ((240, 206, 196), (232, 188, 172), (222, 172, 156), (206, 154, 130), (178, 126, 100))


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
    try:
        with _partial(folder) as partial:
            if _marker(folder) != marker:
                _paint_all(partial, images, seed)
                (partial / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
                _replace(folder, partial)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the demo set to {printable(folder)}: {reason}") from error
    return folder


def _marker(folder: Path) -> object:
    """What a folder's marker says; None where there is no whole demo set."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder to paint in, beside `folder`, held by one process at a time; gone at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    lock = folder.with_name(f".{folder.name}.lock")
    held = hold(lock, LOCK_SECONDS)
    try:
        shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):  # Windows removes no file that is open
                lock.unlink()
    finally:
        if held is not None:
            held.release()


def _replace(folder: Path, partial: Path) -> None:
    if folder.exists():
        names = {path.name for path in folder.iterdir()}
        ours = _marker(folder) is not None and names <= {MARKER, "HAM10000_metadata.csv", *_PARTS}
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
    """One generator for each thing that is drawn, so that no image depends on another."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, 4 * number + stream], np.uint64)))


def _lesions(images: int, seed: int) -> list[_Lesion]:
    """Which lesions there are, in shuffled order: `images` views in all, 1.35 a lesion on average."""
    rng = _rng(seed, 0, 0)
    fewest = FEWEST_LESIONS + 2
    counts = {dx: max(fewest, round(images * share)) for dx, share in SHARES.items()}
    counts["nv"] += images - sum(counts.values())
    drawn = []
    for dx, count in counts.items():
        lesions = max(FEWEST_LESIONS, round(count / 1.35))
        views = np.ones(lesions, int) + np.bincount(rng.integers(lesions, size=count - lesions), minlength=lesions)
        drawn += [(dx, int(v)) for v in views]
    return [_Lesion(i, *drawn[j]) for i, j in enumerate(rng.permutation(len(drawn)))]


def _paint_all(folder: Path, images: int, seed: int) -> None:
    for part in _PARTS:
        (folder / part).mkdir(parents=True)
    rows: list[tuple[str, ...]] = []
    for lesion in _lesions(images, seed):
        rng = _rng(seed, 1, lesion.number)
        who = _patient(rng, lesion.dx)
        transmittance, radius = _paint_lesion(rng, lesion.dx)
        for _ in range(lesion.views):
            name = f"ISIC_{len(rows):07d}"
            picture = _view(_rng(seed, 2, len(rows)), transmittance, radius)
            part = _PARTS[2 * len(rows) >= images]
            Image.fromarray(picture).save(folder / part / f"{name}.jpg", quality=90)
            rows.append((f"HAM_{lesion.number:07d}", name, lesion.dx, *who))
    with (folder / "HAM10000_metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])


def _patient(rng: np.random.Generator, dx: str) -> tuple[str, str, str, str]:
    """dx_type, age (in steps of five years, sometimes missing), sex, localization."""
    kinds = {"nv": ("follow_up", "histo", "consensus"), "mel": ("histo",), "bcc": ("histo",), "akiec": ("histo",)}
    age = int(np.clip(5 * round(rng.normal(_AGES[dx], 14) / 5), 5, 85))
    return (
        str(rng.choice(kinds.get(dx, ("histo", "consensus", "confocal")))),
        "" if rng.random() < 0.01 else f"{age}.0",
        "unknown" if rng.random() < 0.01 else str(rng.choice(("male", "female"))),
        str(rng.choice(_SITES[dx])),
    )


# --- the lesion ------------------------------------------------------------------------------------


def _draw_look(rng: np.random.Generator, dx: str) -> Look:
    """A lesion's own traits: its class's, some of another's, and a spread of its own."""
    other = LOOKS[str(rng.choice(sorted(set(LOOKS) - {dx})))]
    share = rng.uniform(0.3, 0.6) if rng.random() < 0.25 else rng.uniform(0, 0.15)
    traits = {}
    shade = rng.normal(0, 0.06)
    for field in fields(Look):
        typical = (1 - share) * getattr(LOOKS[dx], field.name) + share * getattr(other, field.name)
        if field.name in ("red", "green", "blue"):
            traits[field.name] = typical + shade + rng.normal(0, 0.02)
        else:
            traits[field.name] = typical * math.exp(rng.normal(0, 0.35))
    return Look(**traits)


def _noise(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 1) -> np.ndarray:
    """Smooth random field, float32 [height, width], about unit variance; `cell` pixels from hill to hill.

    Octaves are added on the coarsest grid that holds them, so only the last resize is of full size.
    """
    total: np.ndarray = np.zeros((1, 1), np.float32)
    for octave in range(octaves):
        step = cell / 2**octave
        grid = (int(width / step) + 3, int(height / step) + 3)
        finer = 0.6**octave * rng.standard_normal(grid[::-1], dtype=np.float32)
        total = cv2.resize(total, grid, interpolation=cv2.INTER_CUBIC) + finer
    return cv2.resize(total, (width, height), interpolation=cv2.INTER_CUBIC)


def _cells(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Distance to the nearest of many jittered centres, float32: 0 in the centres, about 1 on the walls."""
    rows, columns = int(height / cell) + 2, int(width / cell) + 2
    grid = np.moveaxis(np.mgrid[:rows, :columns].astype(np.float64), 0, -1)
    grid[1::2, :, 1] -= 0.5
    centres = ((grid + rng.uniform(-0.38, 0.38, grid.shape)) * cell).astype(int)
    empty = np.full((height, width), 255, np.uint8)
    empty[centres[..., 0].clip(0, height - 1), centres[..., 1].clip(0, width - 1)] = 0
    return cv2.distanceTransform(empty, cv2.DIST_L2, 3) / (0.62 * cell)


def _step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _blend(planes: np.ndarray, colour: tuple[float, float, float], amount: np.ndarray) -> None:
    """Change `planes` [3, H, W] in place towards `colour`, by `amount` [H, W] (0 to 1) of the way."""
    if amount.max() > 0.01:
        for plane, value in zip(planes, colour, strict=True):
            plane += amount * (value - plane)


def _outline(rng: np.random.Generator, look: Look) -> np.ndarray:
    """Distance from the lesion's centre as a share of its outline there: below 1 is inside."""
    axis = np.linspace(-_UNITS / 2, _UNITS / 2, _PATCH, dtype=np.float32)
    x = axis[None, :] + 0.30 * look.ragged * _noise(rng, _PATCH, _PATCH, 30, octaves=2)
    y = axis[:, None] + 0.30 * look.ragged * _noise(rng, _PATCH, _PATCH, 30, octaves=2)
    stretch = 1 + min(look.elongation, 0.8)
    angle = np.arctan2(y, x)
    radius = np.ones_like(angle)
    for k in range(1, 9):
        amplitude = look.asymmetry / k if k <= 3 else 0.35 * look.ragged / k**0.5
        radius += amplitude * rng.normal(0, 0.5) * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    return np.hypot(x * math.sqrt(stretch), y / math.sqrt(stretch)) / np.clip(radius, 0.45, 1.6)


def _paint_lesion(rng: np.random.Generator, dx: str) -> tuple[np.ndarray, float]:
    """A lesion as the light it lets through, float32 [3, P, P] (1 where the skin is bare), and its radius
    in pixels of an image."""
    look = _draw_look(rng, dx)
    radius = float(np.clip(look.size, 0.14, 0.9)) * HEIGHT / 2
    pixel = _PATCH / _UNITS / radius  # one pixel of an image, on the map
    outline = _outline(rng, look)

    tilt = rng.normal(0, 1.2 * look.asymmetry, 2)  # one side darker than the other
    axis = np.linspace(-1, 1, _PATCH, dtype=np.float32)
    second = _noise(rng, _PATCH, _PATCH, 0.19 * _PATCH, octaves=3) + 0.8 * (0.6 - outline)
    second += (3 * tilt[0] * axis[None, :] + 3 * tilt[1] * axis[:, None]).astype(np.float32)
    depth = min(look.dark, 1) * _step(second, 0.7 - look.mottle, 2.2 - 0.7 * look.mottle)
    grain = 1 + 0.05 * _noise(rng, _PATCH, _PATCH, 4 * pixel)
    light = np.empty((3, _PATCH, _PATCH), np.float32)
    for plane, main, darker in zip(light, (look.red, look.green, look.blue), (0.62, 0.72, 0.72), strict=True):
        plane[:] = main * grain * (1 - darker * depth)
    _add_pigment(rng, light, look, outline, pixel)
    _add_surface(rng, light, look, outline, pixel)

    soft = min(look.soft, 0.7)
    skin = np.ones_like(light)
    _blend(skin, (1.0, 0.6, 0.65), 0.10 * look.vessels * np.exp(-((outline - 1) ** 2) / 0.15))  # a red halo
    skin += (1 - _step(outline, 1 - soft, 1 + soft / 2)) * (light - skin)
    return np.clip(skin, 0.06, 1.3, out=skin), radius


def _add_pigment(
    rng: np.random.Generator, light: np.ndarray, look: Look, outline: np.ndarray, pixel: float
) -> None:
    """Network, globules, streaks and the blue-white veil, in place."""
    patchy = _step(_noise(rng, _PATCH, _PATCH, 0.2 * _PATCH), -0.9, 1.1)
    walls = _step(_cells(rng, _PATCH, _PATCH, 7 * pixel), 0.35, 1.1)
    light *= 1 - 0.6 * min(look.network, 1) * patchy * walls
    dots = 1 - _step(_cells(rng, _PATCH, _PATCH, 9 * pixel), 0.2, 0.5)
    light *= 1 - 0.6 * min(look.globules, 1) * (1 - patchy) * dots
    if look.streaks > 0.2:
        axis = np.linspace(-1, 1, _PATCH, dtype=np.float32)
        angle = np.arctan2(axis[:, None], axis[None, :])
        rays = _step(np.cos(26 * angle + 2 * _noise(rng, _PATCH, _PATCH, 0.14 * _PATCH)), 0.2, 0.9)
        light *= 1 - 0.6 * min(look.streaks, 1) * rays * _step(outline, 0.6, 0.85)
    hazy = _noise(rng, _PATCH, _PATCH, 0.2 * _PATCH, octaves=2) + 0.6 * (0.7 - outline)
    _blend(light, (0.46, 0.53, 0.63), 0.65 * min(look.veil, 1) * _step(hazy, 0.9 - look.veil, 2.4 - look.veil))


def _add_surface(
    rng: np.random.Generator, light: np.ndarray, look: Look, outline: np.ndarray, pixel: float
) -> None:
    """Chambers, the scar, vessels, cysts and flakes, in place."""
    if look.lacunae > 0.2:
        chambers = 1 - _step(_cells(rng, _PATCH, _PATCH, 13 * pixel), 0.5, 0.9)
        _blend(light, (0.40, 0.10, 0.24), 0.7 * min(look.lacunae, 1) * chambers)
    scar = np.exp(-((outline / 0.5) ** 2)) * (0.85 + 0.15 * _noise(rng, _PATCH, _PATCH, 9 * pixel))
    _blend(light, (1.02, 0.93, 0.91), np.clip(look.scar * scar, 0, 0.9))
    _blend(light, (0.78, 0.26, 0.34), 0.8 * min(look.vessels, 1) * _vessels(rng, pixel, look.vessels))
    if look.cysts > 0.2:
        near = min(look.cysts, 1) * (1 - _step(_cells(rng, _PATCH, _PATCH, 17 * pixel), 0.08, 0.24))
        kind = _noise(rng, _PATCH, _PATCH, 12 * pixel)
        furrows = np.exp(-((_noise(rng, _PATCH, _PATCH, 16 * pixel) / 0.16) ** 2))
        _blend(light, (1.05, 1.0, 0.88), 0.85 * near * _step(kind, 0.0, 0.4))
        _blend(light, (0.25, 0.17, 0.12), 0.80 * near * _step(-kind, 0.2, 0.6))
        light *= 1 - 0.3 * min(look.cysts, 1) * furrows
    flakes = _step(_noise(rng, _PATCH, _PATCH, 9 * pixel, octaves=3), 1.3 - 0.7 * look.scale, 2.2)
    _blend(light, (1.10, 1.08, 1.02), min(0.85 * look.scale, 0.85) * flakes)


def _vessels(rng: np.random.Generator, pixel: float, amount: float) -> np.ndarray:
    """Branching vessels, float32 [P, P] in 0..1."""
    canvas = np.zeros((_PATCH, _PATCH), np.uint8)
    ends: list[tuple[np.ndarray, float, float]] = []
    for _ in range(round(5 * min(amount, 1.2))):
        angle = rng.uniform(0, 2 * math.pi)
        start = _PATCH / 2 + _PATCH / _UNITS * np.array([math.cos(angle), math.sin(angle)]) * rng.uniform(0.5, 1.0)
        ends.append((start, angle + math.pi + rng.normal(0, 0.6), 2.6))
    while ends:
        point, angle, width = ends.pop()
        path = [point]
        for _ in range(int(rng.integers(5, 10))):
            angle += rng.normal(0, 0.35)
            path.append(path[-1] + 5 * pixel * np.array([math.cos(angle), math.sin(angle)]))
            if width > 1.2 and rng.random() < 0.3:
                ends.append((path[-1], angle + rng.choice((-1, 1)) * rng.uniform(0.5, 1.0), width * 0.6))
        line = np.array(path, np.float64).round().astype(np.int32)
        cv2.polylines(canvas, [line], False, 255, max(1, round(width * pixel * 0.7)), cv2.LINE_AA)
    return canvas.astype(np.float32) / 255


# --- the photograph --------------------------------------------------------------------------------


def _view(rng: np.random.Generator, transmittance: np.ndarray, radius: float) -> np.ndarray:
    """One photograph of a lesion, uint8 [HEIGHT, WIDTH, 3]."""
    zoom = radius * _UNITS / _PATCH * rng.uniform(0.85, 1.2)
    turn = cv2.getRotationMatrix2D((_PATCH / 2, _PATCH / 2), rng.uniform(0, 360), zoom)
    shift = rng.normal(0, 0.05, 2)
    turn[0, 2] += WIDTH * (0.5 + shift[0]) - _PATCH / 2
    turn[1, 2] += HEIGHT * (0.5 + shift[1]) - _PATCH / 2
    picture = _skin(rng)
    for plane, light in zip(picture, transmittance, strict=True):
        plane *= cv2.warpAffine(light, turn, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderValue=1)
    if rng.random() < 0.4:
        _add_hair(rng, picture)
    if rng.random() < 0.2:
        _add_ruler(rng, picture)
    if rng.random() < 0.15:
        _add_bubbles(rng, picture)
    _add_lamp(rng, picture)
    picture += 1.5 * rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32)
    return cv2.merge(list(np.clip(picture, 0, 255, out=picture).astype(np.uint8)))


def _skin(rng: np.random.Generator) -> np.ndarray:
    """Bare skin, float32 [3, HEIGHT, WIDTH]: a tone, redness, freckles and the fine lines of the surface."""
    place = min(rng.exponential(0.9), len(_SKINS) - 1.001)
    tones = np.array(_SKINS, np.float32)
    tone = tones[int(place)] + (place - int(place)) * (tones[int(place) + 1] - tones[int(place)])
    tone = tone + rng.normal(0, 5, 3)
    redness = 0.022 * rng.uniform(0.3, 1.8) * _noise(rng, HEIGHT, WIDTH, 36, octaves=4)
    freckles = _step(_noise(rng, HEIGHT, WIDTH, 26, octaves=2), 1.0, 3.2) * rng.choice((0.0, 0.12, 0.3))
    lines = _step(_cells(rng, HEIGHT, WIDTH, rng.uniform(6, 10)), 0.4, 1.1)
    fine = 1 - 0.035 * rng.uniform(0, 1) * lines + 0.012 * _noise(rng, HEIGHT, WIDTH, 2.5)
    absorbed = ((0.2, 0.5), (1.0, 0.8), (0.8, 1.0))  # by blood and by melanin, per channel
    planes = np.empty((3, HEIGHT, WIDTH), np.float32)
    for plane, value, (blood, melanin) in zip(planes, tone, absorbed, strict=True):
        plane[:] = float(value) * (fine + blood * redness - melanin * freckles)
    return planes


def _stroke(canvas: np.ndarray, points: np.ndarray, width: int, shade: int = 255) -> None:
    """An antialiased line through float points; OpenCV takes sixteenths of a pixel."""
    cv2.polylines(canvas, [(points * 16).round().astype(np.int32)], False, shade, width, cv2.LINE_AA, 4)


def _add_hair(rng: np.random.Generator, picture: np.ndarray) -> None:
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    along = rng.uniform(0, math.pi)
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(int(rng.integers(2, 18))):
        angle = along + rng.normal(0, 0.5)
        direction = np.array([math.cos(angle), math.sin(angle)])
        middle = rng.uniform(0, 1, 2) * (WIDTH, HEIGHT)
        length = rng.uniform(40, 260)
        bend = rng.normal(0, 0.09) * length * np.array([-direction[1], direction[0]])
        start, end = middle - direction * length / 2, middle + direction * length / 2
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * (middle + 2 * bend) + t**2 * end
        _stroke(canvas, curve, int(rng.integers(1, 3)), int(rng.integers(150, 256)))
    colour = ((34, 24, 22), (70, 48, 36), (120, 100, 90))[rng.integers(3)]
    _blend(picture, colour, cv2.GaussianBlur(canvas, (3, 3), 0.6).astype(np.float32) * (0.85 / 255))


def _add_ruler(rng: np.random.Generator, picture: np.ndarray) -> None:
    """A millimetre scale along one side, as some dermatoscopes show it."""
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    step, left = rng.uniform(7, 12), rng.uniform(8, 30)
    tilt = math.tan(rng.normal(0, 0.04))
    for i in range(int(HEIGHT / step) + 1):
        length = 14 if i % 10 == 0 else 10 if i % 5 == 0 else 6
        start = np.array([left + tilt * i * step, i * step])
        _stroke(canvas, np.array([start, start + np.array([length, -tilt * length])]), 1)
        if i % 10 == 0:
            at = (round(start[0]) + 17, round(start[1]) + 4)
            cv2.putText(canvas, str(i // 10), at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 255, 1, cv2.LINE_AA)
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1] if rng.random() < 0.5 else canvas[::-1]
    picture *= 1 - rng.uniform(0.35, 0.75) / 255 * canvas.astype(np.float32)


def _add_bubbles(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Air in the immersion gel: bright rings with a glint."""
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(int(rng.integers(2, 9))):
        x, y, r = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)), int(rng.integers(3, 11))
        cv2.circle(canvas, (x, y), r, 110, 1, cv2.LINE_AA)
        cv2.circle(canvas, (x - r // 3, y - r // 3), max(1, r // 4), 255, -1, cv2.LINE_AA)
    _blend(picture, (255, 255, 255), cv2.GaussianBlur(canvas, (3, 3), 0.7).astype(np.float32) * (0.7 / 255))


def _add_lamp(rng: np.random.Generator, picture: np.ndarray) -> None:
    """The lamp: brightness, white balance, the fall towards the edges and, sometimes, the tube's dark rim."""
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :] - rng.normal(0, 0.08)
    y = (np.linspace(-1, 1, HEIGHT, dtype=np.float32) * HEIGHT / WIDTH)[:, None] - rng.normal(0, 0.08)
    squared = x * x + y * y
    lamp = (1 - rng.uniform(0.05, 0.25) * squared) * rng.uniform(0.88, 1.1)
    if rng.random() < 0.2:
        edge = rng.uniform(0.95, 1.12)
        lamp = lamp * (0.04 + 0.96 * (1 - _step(np.sqrt(squared), edge - 0.05, edge + 0.03)))
    balance = (rng.uniform(0.97, 1.04), 1.0, rng.uniform(0.97, 1.12))
    for plane, gain in zip(picture, balance, strict=True):
        plane *= gain * lamp
