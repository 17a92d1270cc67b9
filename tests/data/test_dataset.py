"""The order of an epoch, each process's share of it, and batches that no number of workers changes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from skin.data.augment import augment
from skin.data.cache import PixelCache
from skin.data.dataset import (
    PLAIN,
    Batch,
    EpochBatches,
    PlainBatches,
    RandomViews,
    SkinDiseaseDataset,
    _copying_stream,
    ahead,
    checked,
    default_workers,
    make_loader,
    timed_ahead,
)
from skin.data.images import Preprocess, centre_crop, read_image
from skin.utils.errors import UserError

import numpy as np
import pytest
import torch
from PIL import Image

PREPROCESS = Preprocess(32, 36, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twenty small pictures of noise, each of its own size."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for n in range(20):
        Image.fromarray(draw.integers(0, 256, (40 + n, 50, 3), np.uint8)).save(folder / f"{n:02}.png")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def dataset(files: list[str]) -> SkinDiseaseDataset:
    return SkinDiseaseDataset(files, np.arange(20) % 3, PREPROCESS, RandomViews(seed=5))


# ---- the order of an epoch -----------------------------------------------------------------------------


def classes(size: int) -> np.ndarray:
    """Labels of three classes, as unequal as 16 to 4 to 1, in no order."""
    return np.random.default_rng(0).choice(3, size, p=[16 / 21, 4 / 21, 1 / 21])


def test_an_epoch_is_every_row_once_in_an_order_of_its_own() -> None:
    batches = EpochBatches(classes(100), 16, seed=0)
    orders = [np.concatenate(batches.plan(epoch)) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(100))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    used = EpochBatches(classes(100), 16, seed=3)
    for epoch in (0, 7, 2):
        used.set_epoch(epoch)
        list(used)
    fresh = EpochBatches(classes(100), 16, seed=3)
    assert all(map(np.array_equal, used.plan(7), fresh.plan(7)))
    # neither the batches it is cut into nor the processes that share them change it
    shared = EpochBatches(classes(100), 25, seed=3, replicas=2, rank=1, world=2)
    assert np.array_equal(np.concatenate(shared.plan(7)), np.concatenate(fresh.plan(7)))
    other = EpochBatches(classes(100), 16, seed=4)
    assert not np.array_equal(np.concatenate(other.plan(7)), np.concatenate(fresh.plan(7)))


def test_every_batch_has_its_share_of_every_class() -> None:
    """A plain permutation has batches with none of the rarest class, and others with five times its share."""
    labels = classes(2000)
    for rows in EpochBatches(labels, 40, seed=1).plan(0):
        shares = np.bincount(labels) / len(labels) * len(rows)
        assert abs(np.bincount(labels[rows], minlength=3) - shares).max() < 2.5


def test_within_a_class_the_order_is_random() -> None:
    labels = classes(2000)
    batches = EpochBatches(labels, 40, seed=1)
    first, second = (np.concatenate(batches.plan(epoch)) for epoch in range(2))
    for label in range(3):
        one, other = first[labels[first] == label], second[labels[second] == label]
        assert sorted(one) == sorted(other) == np.flatnonzero(labels == label).tolist()
        assert (one == other).mean() < 0.1
        assert (one == np.sort(one)).mean() < 0.1


def test_the_largest_seed_has_an_order() -> None:
    assert sorted(np.concatenate(EpochBatches(classes(10), 4, seed=2**63 - 1).plan(0))) == list(range(10))


@pytest.mark.parametrize(
    ("size", "batch", "replicas", "steps", "least"),
    [
        (12, 4, 1, [4, 4, 4], 4),
        (10, 4, 1, [4, 4, 2], 2),  # two images are enough for BatchNorm
        (9, 4, 1, [4, 5], 4),  # one is not: it joins the batch before
        (3, 4, 1, [3], 3),
        (1, 4, 1, [1], 1),  # there is none before
        (12, 8, 2, [8, 4], 2),  # two for each replica
        (11, 8, 2, [11], 5),  # 2 and 1 would be too few; 6 and 5
        (16, 8, 4, [8, 8], 2),
        (23, 8, 4, [8, 15], 2),  # 2, 2, 2 and 1 would be; 2, 2, 2, 2, then 4, 4, 4, 3
        (3, 1, 1, [1, 2], 1),  # --batch-size 1: the last is one too, and joins
        (3, 4, 4, [3], 0),  # a replica has nothing
    ],
)
@pytest.mark.parametrize("processes", [False, True])
def test_a_tail_too_small_for_the_replicas_joins_the_batch_before(
    size: int, batch: int, replicas: int, steps: list[int], least: int, processes: bool
) -> None:
    batches = EpochBatches(classes(size), batch, seed=0, replicas=replicas, world=replicas if processes else 1)
    assert [len(rows) for rows in batches.plan(0)] == steps
    assert len(batches) == len(steps)
    assert batches.least_images == least


@pytest.mark.parametrize(
    ("size", "world", "steps", "least"),
    [
        (45, 4, [32, 13], 3),  # processes share 13 as 4, 3, 3, 3
        (45, 1, [45], 9),  # DataParallel as 4, 4, 4, 1, and 45 as 12, 12, 12, 9
        (41, 4, [32, 9], 2),
        (41, 1, [32, 9], 3),  # 3, 3, 3, and a GPU without any
        (38, 4, [38], 9),
        (38, 1, [32, 6], 2),  # 2, 2, 2
    ],
)
def test_the_least_piece_is_that_of_processes_or_of_data_parallel(
    size: int, world: int, steps: list[int], least: int
) -> None:
    batches = EpochBatches(classes(size), 32, seed=0, replicas=4, world=world)
    assert [len(rows) for rows in batches.plan(0)] == steps
    assert batches.least_images == least


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 8])
def test_data_parallel_is_foreseen_as_torch_cuts_a_batch(replicas: int) -> None:
    for images in range(replicas, 40):
        pieces = torch.zeros(images).chunk(replicas)
        assert EpochBatches(classes(images), 64, 0, replicas).least_images == min(map(len, pieces)), images


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_shares_of_all_processes_are_the_batch(world: int) -> None:
    ranks = [EpochBatches(classes(50), 12, 1, replicas=world, rank=rank, world=world) for rank in range(world)]
    for batches in ranks:
        batches.set_epoch(4)
    for rows, *shares in zip(ranks[0].plan(4), *ranks, strict=True):
        keys = [key for share in shares for key in share]
        assert keys == [(4, row) for row in rows]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_going_on_within_an_epoch_gives_the_rest_of_it() -> None:
    batches = EpochBatches(classes(50), 12, 1)
    batches.set_epoch(2)
    whole = list(batches)
    batches.set_epoch(2, 3)
    assert list(batches) == whole[3:]
    batches.set_epoch(2, len(batches))
    assert list(batches) == []


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (2, 3), (0, 2)])
def test_evaluation_takes_every_row_once_over_all_processes(size: int, world: int) -> None:
    ranks = [PlainBatches(size, 4, rank, world) for rank in range(world)]
    for batches in ranks:
        assert len(list(batches)) == len(batches)
        assert all(len(batch) <= 4 for batch in batches)
    keys = [key for batches in ranks for batch in batches for key in batch]
    assert sorted(keys) == [(PLAIN, row) for row in range(size)]  # none padded, none dropped


# ---- what a batch holds --------------------------------------------------------------------------------


def test_a_key_is_the_augmented_view_of_its_epoch_or_the_plain_one(
    dataset: SkinDiseaseDataset, files: list[str]
) -> None:
    batch = dataset.__getitems__([(3, 7), (PLAIN, 8), (4, 7)])
    stored = read_image(files[7], PREPROCESS)
    assert batch.images.shape == (3, 32, 32, 3)
    assert batch.images.dtype == torch.uint8
    assert np.array_equal(batch.images[0], augment(stored, 32, (5, 3, 7)))
    assert np.array_equal(batch.images[1], centre_crop(read_image(files[8], PREPROCESS), 32))
    assert np.array_equal(batch.images[2], augment(stored, 32, (5, 4, 7)))
    assert batch.labels.tolist() == [1, 2, 1]
    assert batch.indices.tolist() == [7, 8, 7]
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert batch.error == ""


def test_one_key_is_a_batch_of_one(dataset: SkinDiseaseDataset) -> None:
    one = dataset[0, 3]
    assert torch.equal(one.images, dataset.__getitems__([(0, 3)]).images)


def test_the_cache_changes_no_byte(dataset: SkinDiseaseDataset, files: list[str], tmp_path: Path) -> None:
    cache = PixelCache.open(np.array([os.fsencode(path) for path in files]), PREPROCESS, tmp_path)
    odd = np.arange(1, 20, 2)  # a part of the folder: its rows in the cache are not its own
    kept = SkinDiseaseDataset([files[row] for row in odd], np.zeros(10), PREPROCESS, RandomViews(seed=5), cache, odd)
    plain = SkinDiseaseDataset([files[row] for row in odd], np.zeros(10), PREPROCESS, RandomViews(seed=5))
    keys = [(epoch, index) for epoch in (0, 1, PLAIN) for index in range(10)]
    for _ in ("decoded", "read back"):
        assert torch.equal(kept.__getitems__(keys).images, plain.__getitems__(keys).images)


def epochs(dataset: SkinDiseaseDataset, workers: int, start: str | None = None) -> list[Batch]:
    batches = EpochBatches(dataset.labels, 6, seed=1)
    loader = make_loader(dataset, batches, workers)
    if start:
        loader.multiprocessing_context = start
    seen = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        seen += list(loader)
    return seen


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores: slower, no less right
@pytest.mark.parametrize(("workers", "start"), [(1, "spawn"), (2, "fork")])
def test_workers_change_no_byte_and_no_order(dataset: SkinDiseaseDataset, workers: int, start: str) -> None:
    alone = epochs(dataset, 0)
    helped = epochs(dataset, workers, start)
    assert len(alone) == len(helped) == 8
    for one, other in zip(alone, helped, strict=True):
        for here, there in zip(one, other, strict=True):
            assert torch.equal(here, there) if isinstance(here, torch.Tensor) else here == there


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_in_place_of_its_batch(
    files: list[str], tmp_path: Path, workers: int
) -> None:
    broken = tmp_path / "cut.png"
    broken.write_bytes(Path(files[3]).read_bytes()[:200])
    dataset = SkinDiseaseDataset([*files[:3], str(broken)], np.zeros(4), PREPROCESS)
    good, bad = make_loader(dataset, PlainBatches(4, 2), workers)
    assert checked(good) is good
    assert str(broken) in bad.error
    assert "--skip-bad-images" in bad.error
    with pytest.raises(UserError, match=r"cut\.png"):
        checked(bad)


class Logged:
    """Stands for a tensor, or for a stream, of a GPU, and writes down what is asked of it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def to(self, device: torch.device, non_blocking: bool) -> Logged:
        assert non_blocking
        self.log.append(f"copy {self.name}")
        return Logged(f"{self.name} on {device}", self.log)

    def record_stream(self, stream: Logged) -> None:
        self.log.append(f"{self.name} used in {stream.name}")

    def wait_event(self, event: Recorded) -> None:
        self.log.append(f"{self.name} waits for {event.name}")

    def query(self) -> bool:
        """Whether the GPU has nothing left to do: so it is until the second batch comes."""
        return "copy x1" not in self.log and "copy x0" not in self.log


class Recorded:
    """Stands for an event: named after what its stream was asked for last."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def record(self, stream: Logged) -> None:
        self.name = f"{self.log[-1]} in {stream.name}"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked of the streams of a GPU, for which others stand."""
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Logged("copying", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Logged("computing", log))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", lambda: Recorded(log))
    _copying_stream.cache_clear()
    yield log
    _copying_stream.cache_clear()


def test_on_a_gpu_the_next_batch_is_on_its_way_before_one_is_used(log: list[str]) -> None:
    device = torch.device("cuda", 0)
    batches = [Batch(Logged(f"x{n}", log), Logged(f"y{n}", log), torch.tensor([n])) for n in range(2)]
    for batch in ahead(batches, device):
        log.append(f"step on {batch.images.name}, {batch.labels.name}, row {int(batch.indices[0])}")
    assert log == [
        "copy x0", "copy y0", "copy x1", "copy y1",
        "computing waits for copy y0 in copying", "x0 on cuda:0 used in computing", "y0 on cuda:0 used in computing",
        "step on x0 on cuda:0, y0 on cuda:0, row 0",
        "computing waits for copy y1 in copying", "x1 on cuda:0 used in computing", "y1 on cuda:0 used in computing",
        "step on x1 on cuda:0, y1 on cuda:0, row 1",
    ]  # fmt: skip
    assert list(ahead([], device)) == []


def test_every_epoch_copies_in_the_same_stream(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps a stream's memory for it: a stream for each epoch took 44 MiB more in each."""
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or Logged("copying", log))
    for _epoch in range(3):
        for number in range(2):
            assert list(ahead([], torch.device("cuda", number))) == []
    assert made == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_a_gpu_waits_for_the_loader_only_when_it_has_nothing_left_to_do(log: list[str]) -> None:
    def slow() -> Iterator[Batch]:
        for n in range(3):
            time.sleep(0.02)
            yield Batch(Logged(f"x{n}", log), Logged(f"y{n}", log), torch.tensor([n]))

    waits = [seconds for _, seconds in timed_ahead(slow(), torch.device("cuda", 0))]
    assert waits[0] >= 0.02
    assert waits[1:] == [0, 0]


def test_on_the_cpu_a_batch_is_where_it_is(dataset: SkinDiseaseDataset) -> None:
    loader = make_loader(dataset, PlainBatches(4, 2), workers=0)
    assert [batch.indices.tolist() for batch in ahead(loader, torch.device("cpu"))] == [[0, 1], [2, 3]]


def test_a_path_of_any_bytes_comes_back_as_it_was(tmp_path: Path) -> None:
    names = [str(tmp_path / os.fsdecode(name)) for name in (b"caf\xe9.jpg", "ñ é.jpg".encode(), b"two\nlines.jpg")]
    dataset = SkinDiseaseDataset(names, np.zeros(3), PREPROCESS)
    assert [str(dataset.path(n)) for n in range(3)] == names


@pytest.mark.parametrize(
    ("cores", "on_gpu", "world", "workers"),
    [(2, False, 1, 1), (64, False, 1, 1), (1, True, 1, 1), (6, True, 1, 6), (64, True, 1, 8), (16, True, 4, 4)],
)
def test_workers_for_a_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, on_gpu: bool, world: int, workers: int
) -> None:
    monkeypatch.setattr("skin.data.dataset.usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
    assert default_workers(on_gpu) == workers
