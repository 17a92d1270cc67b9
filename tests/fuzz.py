"""Mutated images, tables and checkpoints: a result or the project's own error, never anything else.

    python tests/fuzz.py                       10,000 images, 2,000 tables, 500 checkpoints
    python tests/fuzz.py --images 100 --seed 7

Each case starts from a sound file and is spoilt in one to four ways: bits, cuts, repeats, spliced pieces,
numbers at the edge of their range; tables by their cells and delimiters too, checkpoints by the values and
the pickle within an archive whose sums are right. A case may take 20 s and 1 GiB of memory at most.
A case that fails is written to `fuzz-failure-*` in the working folder.
"""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from skin.data import split
from skin.data.folder import Folder
from skin.data.images import ImageError, Preprocess, read_header, read_image
from skin.data.layouts import read_index
from skin.data.npz import read_npz_image
from skin.model import calibration, checkpoint, tensorfile
from skin.model import network as networks
from skin.training.columns import NAMES
from skin.training.progress import Progress
from skin.utils import cli, memory
from skin.utils.cli import option
from skin.utils.errors import UserError
from skin.utils.parallel import Topology
from tests import dicoms
from tests.tiny import FEATURES

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from pillow_heif import register_heif_opener

SECONDS, MIB = 20, 1024
PREPROCESS = Preprocess(64, 73, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EDGES = [b"\x00", b"\xff", b"\x7f\xff", b"\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80"]


@dataclass(frozen=True)
class Settings:
    images: int = option(10_000, "mutated images")
    tables: int = option(2_000, "mutated tables and archives of arrays")
    checkpoints: int = option(500, "mutated checkpoints")
    seed: int = option(0, "of the mutations")


class Failure(AssertionError):
    """A case that neither gave a result nor the project's own error, or took too long or too much."""


@contextmanager
def bounded(name: str) -> Iterator[None]:
    """Run a case within its seconds and its memory; whatever leaves it but `UserError` is a `Failure`."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Failure(f"{name}: more than {SECONDS} s")

    memory.reset_peaks([])
    before = memory.peak_rss_mib()
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    except (UserError, Failure, KeyboardInterrupt, SystemExit):  # the last two are the user's
        raise
    except BaseException as error:
        raise Failure(f"{name}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    if (grown := memory.peak_rss_mib() - before) > MIB:
        raise Failure(f"{name}: {grown:.0f} MiB")


def spoilt(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """`content` with one to four mutations; `others` are where spliced pieces come from."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(data) + 1), draw.choice([1, 2, 4, 16, 256, 4096])
        way = draw.randrange(7)
        if way == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            data[at : at + length] = draw.randbytes(min(length, 256))
        elif way == 2:
            del data[at : at + length]
        elif way == 3:
            data[at:at] = data[at : at + length] * draw.choice([1, 1, 3, 50])
        elif way == 4:
            edge = draw.choice(EDGES)
            data[at : at + len(edge)] = edge
        elif way == 5:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + length]
        elif draw.random() < 0.3:
            del data[at:]
        else:  # where headers are
            at = draw.randrange(min(64, len(data) + 1))
            data[at : at + 1] = bytes([draw.randrange(256)])
    return bytes(data)


# ---- images ---------------------------------------------------------------------------------------------


def images() -> list[tuple[str, bytes]]:
    """Sound images of every format and of the kinds within them."""
    pixels = np.random.Generator(np.random.Philox(0)).integers(0, 256, (6, 7, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((97, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("jpg", picture, {"exif": exif}), ("jpg", picture, {"progressive": True}), ("jpg", picture.convert("L"), {}),
        ("jpg", picture.convert("CMYK"), {}), ("png", picture, {}), ("png", picture.convert("RGBA"), {}),
        ("png", picture.convert("P"), {}), ("png", picture.convert("1"), {}),
        ("png", Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), {}),
        ("gif", picture, {}), ("gif", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        ("bmp", picture, {}), ("tif", picture, {"compression": "tiff_lzw"}),
        ("tif", picture, {"compression": "tiff_adobe_deflate"}), ("tif", picture, {}),
        ("tif", picture.convert("1"), {"compression": "group4"}), ("webp", picture, {}),
        ("webp", picture.convert("RGBA"), {"lossless": True}),
    ]  # fmt: skip
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    found = []
    for suffix, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, formats.get(suffix, suffix.upper()), **options)
        found.append((suffix, buffer.getvalue()))
    return [*found, *heics(picture), *dicom_files(picture)]


def heics(picture: Image.Image) -> list[tuple[str, bytes]]:
    """HEIC files: plain, turned, with alpha, in tiles, of 10 bits, of several pictures."""
    register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    kinds: list[tuple[Image.Image, dict[str, Any]]] = [
        (picture, {}), (picture, {"exif": exif.tobytes()}), (picture.convert("RGBA"), {}), (grey, {}),
        (picture, {"tile_size": 64}),
        (picture, {"save_all": True, "append_images": [picture.rotate(90)], "primary_index": 1}),
    ]  # fmt: skip
    found = []
    for image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, "HEIF", quality=60, **options)
        found.append(("heic", buffer.getvalue()))
    return found


def dicom_files(picture: Image.Image) -> list[tuple[str, bytes]]:
    """DICOM files: of each kind of pixels and compression that is read."""
    colours, grey = np.asarray(picture), np.asarray(picture.convert("L"))
    small = np.ascontiguousarray(colours[:16, :16])
    deep = grey.astype(np.uint16) * 16
    files = [
        dicoms.dicom(small), dicoms.dicom(deep[:16, :16], BitsStored=12, HighBit=11, WindowCenter=[2000, 1],
        WindowWidth=[3000, 2]), dicoms.dicom(grey.astype(np.int16)[:16, :16], RescaleSlope=2, RescaleIntercept=-50),
        dicoms.dicom(grey[:16, :16], PhotometricInterpretation="MONOCHROME1", syntax="1.2.840.10008.1.2"),
        dicoms.dicom(np.ascontiguousarray(small[:, :, 0]), PhotometricInterpretation="PALETTE COLOR",
        **{f"{name}PaletteColorLookupTable{what}": value for name in ("Red", "Green", "Blue")
           for what, value in (("Descriptor", [256, 0, 16]), ("Data", np.arange(256, dtype=np.uint16).tobytes()))}),
        dicoms.packed(small), dicoms.packed(deep[:16, :16]),
    ]  # fmt: skip
    for format, syntax, kind in (
        ("JPEG", "1.2.840.10008.1.2.4.50", "YBR_FULL_422"), ("JPEG2000", "1.2.840.10008.1.2.4.90", "RGB"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        picture.save(buffer, format)
        files.append(dicoms.dicom(buffer.getvalue(), syntax, **dicoms.encoded_tags(colours, kind)))
    return [("dcm", content) for content in files]


def fuzz_images(count: int, draw: random.Random, folder: Path) -> Counter[str]:
    sound, outcomes = images(), Counter[str]()
    others = [content for _, content in sound]
    for number in range(count):
        suffix, content = sound[number % len(sound)]
        path = folder / f"image.{suffix}"
        path.write_bytes(spoilt(content, draw, others))
        try:
            with bounded(f"image {number}"):
                read_header(path)
                stored = read_image(path, PREPROCESS)
                if stored.dtype != np.uint8 or stored.ndim != 3 or min(stored.shape[:2]) != PREPROCESS.resize_size:
                    raise Failure(f"image {number}: {stored.dtype} {stored.shape}")
            outcomes["read"] += 1
        except ImageError:
            outcomes["refused"] += 1
        except Failure as failure:
            _keep(path, failure)
    return outcomes


# ---- tables ---------------------------------------------------------------------------------------------

_CLASSES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
_CELLS = ["", "nan", "1", "0", "-1", "1e309", "=1+1", "mel", "'", '"', "../../etc/passwd", "\0", "é\u202e",
          "a" * 5000, "img_0", "train", "NaT", "1.0", "True", "img_0.jpg", "/", "\ud83d", "١"]  # fmt: skip


def tables() -> list[tuple[str, list[list[str]]]]:
    """Sound tables: the name that their layout knows them by (labels.csv for --labels), and their rows."""
    names = [f"img_{n}" for n in range(8)]
    hot = [[name, *("1.0" if n % 7 == k else "0.0" for k in range(7))] for n, name in enumerate(names)]
    two = ["mel", "nv"]
    return [
        ("HAM10000_metadata.csv", [["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"],
         *([f"l{n // 2}", name, two[n % 4 // 2], "histo", str(n), "male", "back"] for n, name in enumerate(names))]),
        ("ISIC2018_Task3_Training_GroundTruth.csv", [["image", *_CLASSES], *hot]),
        ("ISIC_2019_Training_GroundTruth.csv",
         [["image", *_CLASSES[:3], "AK", *_CLASSES[4:], "SCC", "UNK"], *([*row, "0.0", "0.0"] for row in hot)]),
        ("metadata.csv", [["isic_id", "diagnosis", "patient_id", "age_approx"],
         *([name, two[n % 2], f"p{n}", "40"] for n, name in enumerate(names))]),
        ("fitzpatrick17k.csv", [["md5hash", "fitzpatrick_scale", "label"],
         *([name, str(n % 6), two[n % 2]] for n, name in enumerate(names))]),
        ("labels.csv", [["image", "label", "group", "split"],
         *([name, two[n % 2], f"g{n}", ""] for n, name in enumerate(names))]),
        ("split.csv", [["image", "label", "group", "split"],
         *([name, two[n % 2], f"g{n}", "train"] for n, name in enumerate(names))]),
    ]  # fmt: skip


def spoilt_table(rows: list[list[str]], draw: random.Random) -> bytes:
    """A table whose cells, columns, delimiter or encoding are changed, and often its bytes too."""
    rows = [list(row) for row in rows]
    for _ in range(draw.randint(0, 3)):
        row = draw.choice(rows)
        way = draw.randrange(5)
        if way == 0 and row:
            row[draw.randrange(len(row))] = draw.choice(_CELLS)
        elif way == 1:
            row.append(draw.choice(_CELLS))
        elif way == 2 and row:
            del row[draw.randrange(len(row))]
        elif way == 3:
            rows.append(list(draw.choice(rows)))
        elif len(rows) > 1:
            del rows[draw.randrange(len(rows))]
    text = io.StringIO()
    ends, quoting = draw.choice(["\n", "\r\n"]), draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    csv.writer(text, delimiter=draw.choice(",,,;\t"), lineterminator=ends, quoting=quoting).writerows(rows)
    encoding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"])
    content = text.getvalue().encode(encoding, "replace" if encoding == "cp1252" else "surrogatepass")
    return spoilt(content, draw, [content, b'"""\n\r,;\t\0\xef\xbb\xbf']) if draw.random() < 0.6 else content


def archive_of_arrays() -> bytes:
    """A small dermamnist.npz."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.zeros((8, 4, 4, 3), np.uint8)
        arrays[f"{part}_labels"] = np.arange(8).reshape(-1, 1) % 7
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def containers(folder: Path) -> list[tuple[str, bytes]]:
    """Small files of pictures: HDF5 as it is and compressed, a tar, and parquet."""
    content = images()[0][1]
    names = [f"img_{number}" for number in range(8)]
    with h5py.File(folder / "images.hdf5", "w") as plain, h5py.File(folder / "more.hdf5", "w") as compressed:
        for name in names:
            plain[name] = np.void(content)
            compressed.create_dataset(f"g/{name}", data=np.frombuffer(content, np.uint8), compression="gzip")
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for number, name in enumerate(names):
            for ending, data in (("jpg", content), ("json", b'{"label": "%d", "patient_id": 1}' % (number % 2))):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    rows = {"image": [{"bytes": content, "path": None}] * 8, "label": [number % 2 for number in range(8)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "train.parquet", row_group_size=3)
    files = [folder / name for name in ("images.hdf5", "more.hdf5", "train-000000.tar", "train.parquet")]
    return [(file.name, file.read_bytes()) for file in files]


def spoilt_archive(content: bytes, draw: random.Random) -> bytes:
    """A zip file some of whose members are spoilt, with sums that are right again; or its bytes as they are."""
    if draw.random() < 0.3:
        return spoilt(content, draw, [content])
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        entries = source.infolist()
        victims = {draw.choice(entries).filename for _ in range(2)}
        for entry in entries:
            data = source.read(entry)
            if entry.filename in victims:
                # The start is the description, where a mutation says the most.
                head = spoilt(data[:256], draw, [data])
                data = head + data[256:] if draw.random() < 0.7 else spoilt(data, draw, [head])
            target.writestr(entry.filename, data, entry.compress_type)
    return out.getvalue()


def fuzz_tables(count: int, draw: random.Random, folder: Path) -> Counter[str]:
    sound, archive, outcomes = tables(), archive_of_arrays(), Counter[str]()
    packed = containers(folder)
    content = images()[0][1]
    for number in range(count):
        kind = number % (len(sound) + 1 + len(packed))
        name, rows = sound[kind] if kind < len(sound) else ("dermamnist.npz", [])
        data = folder / f"data-{kind}"
        if kind > len(sound):
            name, whole = packed[kind - len(sound) - 1]
            data.mkdir(exist_ok=True)
        elif not data.exists():
            (data / "images").mkdir(parents=True)
            for image in range(8):
                (data / "images" / f"img_{image}.jpg").write_bytes(content)
        path = data / name
        if kind > len(sound):
            path.write_bytes(spoilt(whole, draw, [whole]))
        else:
            path.write_bytes(spoilt_table(rows, draw) if rows else spoilt_archive(archive, draw))
        try:
            with bounded(f"table {number}"):
                _use_table(data, path)
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
        except Failure as failure:
            _keep(path, failure)
    return outcomes


def _use_table(data: Path, path: Path) -> None:
    if path.name == "split.csv":
        split.read_manifest(path)
        return
    if path.suffix == ".hdf5":
        found = sorted(Folder(data).images)
        if not found:
            raise UserError("no pictures")
        _read_some([f"{data}/{name}" for name in found])
        return
    index = read_index(data, labels=path if path.name == "labels.csv" else None, allow_missing=True)
    split.split_index(index, (0.7, 0.2, 0.1), 0)
    if path.suffix == ".npz":
        for image in index.rows["path"].iloc[:: max(1, len(index.rows) // 3)]:
            read_npz_image(image)
    elif path.suffix in (".tar", ".parquet"):
        _read_some(index.rows["path"].tolist())


def _read_some(paths: list[str]) -> None:
    for path in paths[:: max(1, len(paths) // 3)]:
        with suppress(ImageError):
            read_image(path, PREPROCESS)


# ---- checkpoints ----------------------------------------------------------------------------------------


def states() -> tuple[dict[str, Any], dict[str, Any]]:
    """A sound best.pt, and a sound progress of a last.pt."""
    torch.manual_seed(0)
    network = networks.build("efficientnet_b0", 3)
    numbers = np.random.Generator(np.random.Philox(0))
    labels = np.arange(60) % 3
    fitted = calibration.fit(numbers.normal(size=(60, 3)), labels, numbers.normal(size=(60, FEATURES)))
    row: dict[str, Any] = {name: 1 if name == "epoch" else 0.5 for name in NAMES}
    best = {
        "format_version": 1,
        "model": network.state_dict(),
        "classes": ["a", "b", "c"],
        "preprocess": networks.preprocess_for("efficientnet_b0", 64).to_dict(),
        "config": {"model": "efficientnet_b0", "data": "/data", "seed": 3, "resolved": {"workers": 1}},
        "metrics": row,
        "calibration": fitted,
    }
    progress = Progress(True)
    progress.begin_epoch(4, torch.device("cpu"))
    progress.end_epoch(row, 0.5)
    progress.begin_epoch(4, torch.device("cpu"))
    progress.step = 2
    return best, progress.state(Topology(torch.device("cpu")))


_VALUES: list[Any] = [
    None, True, -1, 0, 2**62, -0.0, float("nan"), float("inf"), 1e308, "", "a" * 3000, "\ud800", "\x1b[2J", [], {},
    [[]], {"a": 1}, {3: 4}, torch.zeros(0), torch.zeros(3), torch.full((3, FEATURES), float("nan")),
    torch.zeros(1).expand(2**30), torch.zeros(2, 2, dtype=torch.complex64), torch.tensor(7),
    torch.zeros(3, FEATURES, dtype=torch.float16), (1, 2),
]  # fmt: skip


def spoilt_state(state: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A nested dict in which one to three values are others, or gone, or new."""
    state = _shallow(state)
    for _ in range(draw.randint(1, 3)):
        place: Any = state
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw.choice(keys)
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and draw.random() < 0.8:
                place = inner
                continue
            way = draw.randrange(4)
            if way == 0:
                del place[key]
            elif way == 1 and isinstance(place, dict):
                place[draw.choice(["new", 5])] = draw.choice(_VALUES)
            else:
                place[key] = draw.choice(_VALUES)
            break
    return state


def _shallow(value: Any) -> Any:
    """The dicts and lists again, their tensors as they are."""
    if isinstance(value, dict):
        return {key: _shallow(item) for key, item in value.items()}
    return [_shallow(item) for item in value] if isinstance(value, list) else value


def fuzz_checkpoints(count: int, draw: random.Random, folder: Path) -> Counter[str]:
    """A third have spoilt values, a third a spoilt archive or pickle, a third spoil the state of a training."""
    best, progress = states()
    small = io.BytesIO()
    torch.save({**best, "model": {"w": torch.zeros(5, 7), "b": torch.arange(3)}, "calibration": {}}, small)
    path, outcomes = folder / "best.pt", Counter[str]()
    ensemble = {
        **{name: best[name] for name in ("format_version", "classes", "config", "metrics")},
        "members": [best, best], "sources": [{"file": f"{name}/best.pt", "sha256": name} for name in "ab"],
        "calibration": {**best["calibration"], "unlike": {"threshold": 2.0}},
    }  # fmt: skip
    ways: list[Callable[[], None]] = [
        lambda: _use_best(spoilt_state(draw.choice([best, best, ensemble]), draw), path),
        lambda: _read_bytes(spoilt_archive(small.getvalue(), draw), path),
        lambda: Progress(True).load_state(spoilt_state(progress, draw), Topology(torch.device("cpu")), 4),
    ]
    for number in range(count):
        try:
            with bounded(f"checkpoint {number}"):
                ways[number % len(ways)]()
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
        except Failure as failure:
            _keep(path, failure)
    return outcomes


def _use_best(state: dict[str, Any], path: Path) -> None:
    torch.save(state, path)
    found = checkpoint.load_best(path)
    features = np.random.Generator(np.random.Philox(1)).normal(size=(4, FEATURES))
    used = calibration.apply(found.calibration, features[:, : len(found.classes)], features)
    if used.probabilities.shape != (4, len(found.classes)) or not np.isfinite(used.probabilities).all():
        raise Failure(f"probabilities {used.probabilities}")


def _read_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    tensorfile.load(path)


# ---- all of it ------------------------------------------------------------------------------------------


FAILURES: list[str] = []


def _keep(path: Path, failure: Failure) -> None:
    FAILURES.append(str(failure)[:300])
    if path.exists():
        Path(f"fuzz-failure-{len(FAILURES)}-{path.name}").write_bytes(path.read_bytes())


def fuzz(images: int, tables: int, checkpoints: int, seed: int) -> str:
    """Run so many cases of each; a line on how they ended.

    Raises:
        Failure: a case was answered by anything but a result or the project's own error.
    """
    start = time.monotonic()
    sys.stderr.flush()
    terminal = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and libpng talk to it by themselves
    scratch = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    parts = []
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=scratch) as folder:
        every = {"images": (fuzz_images, images), "tables": (fuzz_tables, tables),
                 "checkpoints": (fuzz_checkpoints, checkpoints)}  # fmt: skip
        for name, (run, count) in every.items():
            outcomes = run(count, random.Random(seed), Path(folder))
            parts.append(f"{count:,} {name} ({outcomes['read']:,} read, {outcomes['refused']:,} refused)")
    os.dup2(terminal, 2)
    if FAILURES:
        raise Failure("\n".join(FAILURES))
    return f"fuzzed {', '.join(parts)}: no other exception; {time.monotonic() - start:.0f} s"


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    print(fuzz(settings.images, settings.tables, settings.checkpoints, settings.seed))
    return 0


if __name__ == "__main__":
    cli.run(main)
