"""The training step against one written out by hand, and the schedule, seeds and sizes around it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import train
from skin.data.augment import STANDARD
from skin.data.dataset import PLAIN, Batch, EpochBatches
from skin.model.network import Classifier, build, preprocess_for
from skin.model.precision import Precision
from skin.training import batch_norm
from skin.training.options import Options
from skin.training.progress import Progress
from skin.training.records import StepRecord
from skin.training.splits import Splits, read_splits, with_metadata
from skin.training.states import checked_last
from skin.training.trainer import Trainer
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

import numpy as np
import pytest
import torch
from torch import Tensor, nn

CPU = Topology(torch.device("cpu"))


@pytest.fixture(scope="module")
def settings(demo_folder: Path) -> Options:
    """The recipe on the demo set, small: B0 from random weights on 48 px, 16 images a step."""
    return Options(
        data=demo_folder, model="efficientnet_b0", weights="none", image_size=48, batch_size=16, epochs=2,
        amp="off", workers=0, cache="off",
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts(settings: Options) -> Splits:
    return read_splits(settings)


def built(settings: Options, parts: Splits, topology: Topology = CPU, **changes: Any) -> Trainer:
    trainer = train.build_trainer(dataclasses.replace(settings, **changes), topology, parts)
    trainer.classifier.train()
    return trainer


def first_batch(trainer: Trainer) -> tuple[Tensor, Tensor]:
    batch = next(iter(trainer.loader))
    return batch.images, batch.labels


def step(trainer: Trainer, images: Tensor, labels: Tensor) -> StepRecord:
    trainer.seed_step(0)
    return train.train_step(trainer, as_batch(images, labels), float(trainer.class_weights[labels].sum()))


def as_batch(images: Tensor, labels: Tensor) -> Batch:
    return Batch(images, labels, torch.arange(len(labels)))


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.classifier.network.state_dict().items()}


def contents(trainer: Trainer) -> dict[str, Any]:
    """What last.pt would hold."""
    return {**train.last_pt(trainer, Progress(True), ("a", "b"))}


def load(trainer: Trainer, state: dict[str, Any]) -> None:
    train.load_last(checked_last(state, trainer, ("a", "b"), Path("last.pt")), trainer, Progress(True))


def steps_taken(trainer: Trainer) -> int:
    """Steps that Adam has taken."""
    return int(trainer.optimizer.state.get(trainer.classifier.network.classifier[1].bias, {}).get("step", 0))


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ---- BatchNorm's statistics -----------------------------------------------------------------------------


def test_each_process_gets_its_own_statistics_back_and_another_number_of_them_the_mean(
    settings: Options, parts: Splits
) -> None:
    trainer = built(settings, parts)
    state = contents(trainer)
    own = state["statistics"][0]
    state["statistics"] = torch.stack([own + 1, own + 3])

    def loaded(topology: Topology) -> Tensor:
        load(dataclasses.replace(trainer, topology=topology), state)
        return batch_norm.read(trainer.classifier.network)

    for rank in (0, 1):
        assert torch.equal(loaded(Topology(CPU.device, rank=rank, world=2)), state["statistics"][rank])
    assert torch.allclose(loaded(CPU), own + 2)
    assert torch.allclose(loaded(Topology(CPU.device, rank=2, world=3)), own + 2)


def test_a_state_without_statistics_has_those_of_its_weights(settings: Options, parts: Splits) -> None:
    """As files have it that were written before all processes' were kept."""
    trainer = built(settings, parts)
    state = contents(trainer)
    before = state.pop("statistics")[0].clone()
    state = copy.deepcopy(state)
    batch_norm.write(trainer.classifier.network, before + 1)
    load(trainer, state)
    assert torch.equal(batch_norm.read(trainer.classifier.network), before)


@pytest.mark.parametrize("damaged", [torch.zeros(2, 3), torch.zeros(3), "none", torch.zeros(0, 42016)])
def test_damaged_statistics_change_nothing(settings: Options, parts: Splits, damaged: object) -> None:
    trainer = built(settings, parts)
    before = state_of(trainer)
    state = contents(trainer) | {"statistics": damaged}
    with pytest.raises(UserError, match=r"last\.pt: damaged checkpoint: tensor statistics is not"):
        load(trainer, state)
    assert_same_bits(state_of(trainer), before)


# ---- one step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weights", ["balanced", "logits", "none"])
def test_a_step_with_amp_off_is_the_one_written_by_hand_to_the_last_bit(
    settings: Options, parts: Splits, class_weights: str
) -> None:
    trainer = built(settings, parts, class_weights=class_weights)
    network = copy.deepcopy(trainer.classifier.network)
    images, labels = first_batch(trainer)
    pixels = trainer.classifier.normalise(images)
    counts = torch.from_numpy(np.bincount(trainer.dataset.labels))
    log_shares = (counts / counts.sum()).log() if class_weights == "logits" else torch.zeros(len(counts))

    criterion = nn.CrossEntropyLoss(trainer.class_weights)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    trainer.seed_step(0)
    loss = criterion(network(pixels) + log_shares, labels)
    loss.backward()
    optimizer.step()

    record = step(trainer, images, labels)
    assert float(record.loss) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert_same_bits(state_of(trainer), network.state_dict())


def test_a_second_step_starts_from_clean_gradients(settings: Options, parts: Splits) -> None:
    trainer = built(settings, parts)
    images, labels = first_batch(trainer)
    step(trainer, images, labels)
    assert all(p.grad is None for p in trainer.classifier.parameters())


def test_a_record_is_what_the_batch_was(settings: Options, parts: Splits) -> None:
    trainer = built(settings, parts)
    images, labels = first_batch(trainer)
    network = copy.deepcopy(trainer.classifier.network)
    trainer.seed_step(0)
    with torch.no_grad():
        logits = network(trainer.classifier.normalise(images))
    of_each = nn.functional.cross_entropy(logits, labels, reduction="none") * trainer.class_weights[labels]
    correct = (logits.argmax(1) == labels).sum()
    expected = [float(of_each.sum()), float(trainer.class_weights[labels].sum()), float(correct), len(labels)]
    assert torch.stack(step(trainer, images, labels))[:4].tolist() == pytest.approx(expected, rel=1e-5)


def test_with_metadata_each_image_is_answered_with_them_and_without(settings: Options, parts: Splits) -> None:
    known = with_metadata(parts, ("age", "sex"))
    trainer = built(dataclasses.replace(settings, metadata=("age", "sex"), batch_size=8), known, accumulate=2)
    torch.manual_seed(1)  # the branch adds nothing at first
    network = trainer.classifier.network
    nn.init.normal_(network.metadata.shift.weight)  # type: ignore[union-attr, arg-type]
    network.classifier[0].p = 0.0
    batch = next(iter(trainer.loader))
    assert batch.metadata is not None
    classifier, weights = copy.deepcopy(trainer.classifier), trainer.class_weights[batch.labels]
    sums = torch.zeros(2)
    trainer.seed_step(0)
    for rows in (slice(0, 8), slice(8, 16)):  # the passes of --accumulate
        features, labels = classifier.features(batch.images[rows]), batch.labels[rows]
        answers = [classifier.head(features, batch.metadata[rows, 0]), classifier.head(features)]
        losses = [nn.functional.cross_entropy(it, labels, reduction="none") * weights[rows] for it in answers]
        assert not torch.allclose(*losses)
        loss = (losses[0] + losses[1]).sum() / 2
        (loss / weights.sum()).backward()
        sums += torch.stack([loss.detach(), (answers[0].argmax(1) == labels).sum()])
    squares = [float(p.grad.double().square().sum()) for p in classifier.parameters() if p.grad is not None]
    expected = [float(sums[0]), float(weights.sum()), float(sums[1]), 16, math.sqrt(sum(squares))]
    trainer.seed_step(0)
    record = train.train_step(trainer, batch, float(weights.sum()))
    assert torch.stack(record).tolist() == pytest.approx(expected, rel=1e-5)


# ---- float16 on the CPU, with a GradScaler --------------------------------------------------------------


@pytest.fixture(scope="module")
def in_float16(settings: Options, parts: Splits) -> Trainer:
    return built(settings, parts, amp="fp16", image_size=32, batch_size=8)


def test_a_finite_gradient_is_one_step_of_the_optimizer(in_float16: Trainer) -> None:
    in_float16.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    before, taken = state_of(in_float16), steps_taken(in_float16)
    step(in_float16, *first_batch(in_float16))
    assert steps_taken(in_float16) == taken + 1
    assert in_float16.scaler.get_scale() == 64.0
    after = state_of(in_float16)
    assert not torch.equal(before["classifier.1.weight"], after["classifier.1.weight"])


def test_an_infinite_gradient_skips_the_step_and_halves_the_scale(in_float16: Trainer) -> None:
    in_float16.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)  # far beyond what float16 can hold
    before, taken = dict(in_float16.classifier.network.named_parameters()), steps_taken(in_float16)
    before = {name: p.detach().clone() for name, p in before.items()}
    record = step(in_float16, *first_batch(in_float16))
    assert steps_taken(in_float16) == taken
    assert in_float16.scaler.get_scale() == 2.0**59
    assert_same_bits(before, {n: p.detach() for n, p in in_float16.classifier.network.named_parameters()})
    assert torch.isfinite(torch.stack(record[:4])).all()  # the loss itself is fine
    assert not torch.isfinite(record.grad_norm)


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_the_norm_is_of_the_unscaled_gradients(settings: Options, parts: Splits, scale: float) -> None:
    trainer = built(settings, parts)
    network = copy.deepcopy(trainer.classifier.network)
    images, labels = first_batch(trainer)
    trainer.seed_step(0)
    nn.CrossEntropyLoss(trainer.class_weights)(network(trainer.classifier.normalise(images)), labels).backward()
    squares = [float(p.grad.double().square().sum()) for p in network.parameters() if p.grad is not None]
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
    assert float(step(trainer, images, labels).grad_norm) == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_another_optimizer_takes_a_step_and_comes_back_from_last_pt(
    settings: Options, parts: Splits, name: str, kind: type
) -> None:
    trainer, other = (built(settings, parts, optimizer=name) for _ in range(2))
    assert type(trainer.optimizer) is kind
    step(trainer, *first_batch(trainer))
    load(other, copy.deepcopy(contents(trainer)))
    for one in (trainer, other):
        step(one, *first_batch(one))
    assert_same_bits(state_of(trainer), state_of(other))


def test_the_scale_does_not_change_the_step(settings: Options, parts: Splits) -> None:
    """In float32 a power of two is exact, so scaling there and back leaves every bit."""
    plain, scaled = built(settings, parts), built(settings, parts)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    images, labels = first_batch(plain)
    step(plain, images, labels)
    step(scaled, images, labels)
    assert_same_bits(state_of(plain), state_of(scaled))


# ---- the schedule --------------------------------------------------------------------------------------


def test_the_rate_rises_in_a_line_and_falls_as_half_a_cosine() -> None:
    rates = [train.learning_rate(step, 12, 4, 1.0) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)  # halfway down
    assert rates[6] == pytest.approx((1 + math.sqrt(0.5)) / 2)  # an eighth of a turn
    assert 0 < rates[11] < rates[10]


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert train.learning_rate(0, 1, 0, 3e-4) == 3e-4


def test_the_warm_up_is_the_freed_bodys() -> None:
    rates = [train.learning_rate(step, 12, 2, 1.0, frozen=4) for step in range(12)]
    assert rates[:4] == [1.0] * 4  # the head alone
    assert rates[4:6] == [0.5, 1.0]
    assert rates[6:] == [train.learning_rate(step, 8, 2, 1.0) for step in range(2, 8)]


def test_the_loop_warms_up_after_the_frozen_epochs(
    settings: Options, parts: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train_step", lambda *batch: StepRecord(*torch.zeros(5)))

    def rates(**changes: Any) -> list[float]:
        trainer = built(settings, parts, image_size=32, lr=0.01, epochs=3, **changes)
        steps = (done for epoch in range(3) for done in train.train_steps(trainer, epoch))
        return [trainer.optimizer.param_groups[0]["lr"] for _ in steps]

    with_head_first = rates(freeze_epochs=1)
    assert with_head_first[:7] == [0.01] * 7
    assert with_head_first[7:11] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])  # int(0.3 * 14) steps
    assert rates(freeze_epochs=3) == rates()  # no body is freed: the head's is the only schedule


@pytest.mark.parametrize(
    ("warmup_epochs", "first"),
    [
        (1.0, [0.01 / 7, 0.02 / 7, 0.03 / 7]),  # an epoch's 7 steps
        (9.0, [0.01 / 8, 0.02 / 8, 0.03 / 8]),  # 0.3 of 28 steps at most
        (0.2, [0.01, 0.01, 0.009966]),  # 0.2 * 7 steps: 1; (1 + cos(pi / 27)) / 2 = 0.99662
    ],
)
def test_the_loop_sets_the_rate_of_each_step(
    settings: Options, parts: Splits, monkeypatch: pytest.MonkeyPatch, warmup_epochs: float, first: list[float]
) -> None:
    monkeypatch.setattr(train, "train_step", lambda *batch: StepRecord(*torch.zeros(5)))
    trainer = built(settings, parts, image_size=32, lr=0.01, epochs=4, warmup_epochs=warmup_epochs)
    assert len(trainer.batches) == 7
    rates = []
    for epoch in range(4):
        for done in train.train_steps(trainer, epoch):
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            assert done.step == len(rates) - epoch * 7
    assert rates[:3] == pytest.approx(first, abs=1e-6)
    assert max(rates) == 0.01
    assert rates[8:] == sorted(rates[8:], reverse=True)
    assert rates[-1] < 1e-4


# ---- what a trainer is made of -------------------------------------------------------------------------


def test_the_optimizer_is_the_recipes(settings: Options, parts: Splits) -> None:
    adam = built(settings, parts, lr=3e-4, weight_decay=0.01).optimizer
    assert type(adam) is torch.optim.Adam
    (group,) = adam.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (3e-4, (0.9, 0.999), 1e-8, 0.01)


@pytest.mark.parametrize(("gpus", "images"), [(0, 32), (1, 32), (2, 64), (4, 128)])
def test_the_recipes_batch_grows_with_the_gpus(
    settings: Options, parts: Splits, monkeypatch: pytest.MonkeyPatch, gpus: int, images: int
) -> None:
    monkeypatch.setattr(train, "make_parallel", lambda classifier, *rest: classifier)  # none of them is there
    trainer = built(settings, parts, Topology(torch.device("cpu"), gpus), batch_size=32)
    assert trainer.resolved()["images_per_step"] == images


def test_a_run_that_goes_on_keeps_its_images_a_step(settings: Options, parts: Splits) -> None:
    two = Topology(torch.device("cpu"), gpus=0, rank=0, world=1)
    assert train.build_trainer(settings, two, parts, images_per_step=40).batches.batch_size == 40


def test_the_same_seed_is_the_same_model_and_another_seed_another(settings: Options, parts: Splits) -> None:
    one, same, other = (built(settings, parts, seed=seed) for seed in (20240101, 20240101, 1))
    assert_same_bits(state_of(one), state_of(same))
    assert not torch.equal(state_of(one)["classifier.1.weight"], state_of(other)["classifier.1.weight"])


def test_dropouts_draws_are_a_function_of_seed_step_and_process(settings: Options, parts: Splits) -> None:
    def draws(seed: int, at: int, rank: int) -> tuple[float, ...]:
        trainer.topology = Topology(torch.device("cpu"), rank=rank, world=2)
        trainer.options = dataclasses.replace(settings, seed=seed)
        trainer.seed_step(at)
        return tuple(torch.rand(3).tolist())

    trainer = built(settings, parts)
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (2**63 - 1, 10**7, 1)]
    assert len({draws(*key) for key in keys}) == len(keys)
    assert draws(0, 1, 0) == draws(0, 1, 0)


def test_dataparallels_replicas_draw_dropout_of_their_own(
    settings: Options, parts: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(settings, parts)
    generators = tuple(torch.Generator() for _ in range(3))
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    trainer.seed_step(5)
    alone = torch.rand(3).tolist()
    before = [g.initial_seed() for g in generators]
    trainer.topology = Topology(torch.device("cuda", 0), gpus=2)
    trainer.seed_step(5)
    assert torch.rand(3).tolist() == alone  # the CPU's draws are as ever
    first, second, third = (g.initial_seed() for g in generators)
    assert first != second
    assert third == before[2]  # a GPU that is not used
    trainer.seed_step(6)
    assert generators[1].initial_seed() != second
    trainer.seed_step(5)
    assert [g.initial_seed() for g in generators] == [first, second, third]


def test_what_auto_became_is_said_in_the_header_and_the_config(settings: Options, parts: Splits) -> None:
    trainer = built(settings, parts)
    resolved = trainer.resolved()
    assert resolved == {
        "image_size": 48, "weights": "random (trained from scratch)", "precision": "float32", "parallel": "CPU",
        "gpus": 0, "processes": 1, "workers": 0, "images_per_step": 16, "steps_per_epoch": len(trainer.batches),
        "parameters": 48_791,  # tests/small_network
        "drawn": True,
    }  # fmt: skip
    header = trainer.describe()
    for words in ("efficientnet_b0, 0.0 M parameters, 48 px", "random", "CPU (1 threads), float32, 16 images a step"):
        assert words in header


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_head_alone_learns_while_the_body_is_frozen(settings: Options, parts: Splits, optimizer: str) -> None:
    trainer = built(settings, parts, image_size=32, freeze_epochs=1, optimizer=optimizer, lr=0.01)
    before = state_of(trainer)
    list(train.train_steps(trainer, epoch=0))
    frozen = state_of(trainer)
    changed = {name for name in before if not torch.equal(before[name], frozen[name])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}  # BatchNorm statistics stay, too
    next(train.train_steps(trainer, epoch=1))
    freed = state_of(trainer)
    assert not torch.equal(frozen["features.0.0.weight"], freed["features.0.0.weight"])


def test_compiling_is_for_one_gpu_a_process(settings: Options, parts: Splits) -> None:
    with pytest.raises(UserError, match="--compile is for GPUs"):
        built(settings, parts, compile=True)
    wanted, two_gpus = dataclasses.replace(settings, compile=True), Topology(torch.device("cuda", 0), gpus=2)
    classifier = built(settings, parts).classifier
    with pytest.raises(UserError, match="--compile does not reach DataParallel's replicas"):
        train.make_parallel(classifier, wanted, two_gpus)
    compiled = train.make_parallel(classifier, wanted, Topology(torch.device("cuda", 0), gpus=1))
    assert isinstance(compiled, torch._dynamo.eval_frame.OptimizedModule)
    assert compiled._orig_mod is classifier  # which validates, and whose weights are saved


@pytest.mark.slow
def test_a_training_step_is_one_graph_to_compile() -> None:
    torch.manual_seed(0)
    network = build("efficientnet_b0", 7)
    preprocess, bfloat16 = preprocess_for("efficientnet_b0", 32), Precision("cpu", torch.bfloat16)
    classifier = Classifier(network, preprocess, bfloat16).train()
    compiled = torch.compile(classifier, dynamic=False, fullgraph=True, backend="aot_eager")
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    logits = []
    for model in (classifier, compiled):
        torch.manual_seed(1)  # the same dropout
        logits.append(model(images))
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("topology", "changes", "message"),
    [
        (CPU, {"batch_size": 1, "image_size": 32}, "a batch of one 32-pixel image .* a larger --batch-size"),
        (Topology(torch.device("cpu"), gpus=200), {"batch_size": 1}, "too few for 200 GPUs; use fewer of them"),
    ],
)
def test_batches_too_small_are_refused(
    settings: Options, parts: Splits, topology: Topology, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        built(settings, parts, topology, **changes)


def test_a_batch_of_one_image_is_a_batch(settings: Options, parts: Splits) -> None:
    trainer = built(settings, parts, batch_size=1)
    record = step(trainer, *first_batch(trainer))
    assert record.images == 1
    assert torch.isfinite(torch.stack(record)).all()
    assert all(torch.isfinite(p).all() for p in trainer.classifier.parameters())


# ---- the parts a trainer is given ----------------------------------------------------------------------


def test_the_header_counts_every_image_once(settings: Options, parts: Splits) -> None:
    counts = parts.counts().to_numpy()
    assert counts.sum() == len(parts.rows) == 160
    assert parts.describe().startswith(f"data    {settings.data}: HAM10000, 160 images in ")
    lines = parts.describe_classes(np.arange(7) / 4).splitlines()
    assert lines[5].split() == ["melanoma", "(mel)", *(f"{n}" for n in counts[4]), "1.00"]
    assert lines[-1].split() == ["all", *(f"{n}" for n in counts.sum(0))]


def test_a_part_without_images_is_named(settings: Options) -> None:
    with pytest.raises(UserError, match="the val split is empty; give it a share of --split 90/0/10"):
        read_splits(dataclasses.replace(settings, split="90/0/10"))


def test_the_strength_of_the_augmentation_reaches_the_images(settings: Options, parts: Splits) -> None:
    """At 0 a view of training is the centre of its image, as validation sees it."""
    recipe, none = (built(settings, parts, augment=strength) for strength in (1.0, 0.0))
    assert recipe.dataset.views.ranges == STANDARD
    (plain,) = none.dataset[(PLAIN, 3)].images.int()
    (without,) = none.dataset[(0, 3)].images.int()
    (augmented,) = recipe.dataset[(0, 3)].images.int()
    off, far = ((view - plain).abs().float().mean() for view in (without, augmented))
    assert 3 * off < far  # a shift of half a pixel remains


# ---- several passes, and the mean of the weights ---------------------------------------------------------


def without_noise(trainer: Trainer) -> Trainer:
    """A trainer whose answer for an image depends on no other image and no draw: the body frozen, no dropout."""
    trainer.freeze(True)
    trainer.classifier.network.classifier[0].p = 0.0
    return trainer


@pytest.mark.parametrize("passes", [2, 5])  # 16 images are 8, 8, and 4, 3, 3, 3, 3
def test_a_step_in_passes_has_the_gradient_of_the_whole_batch(settings: Options, parts: Splits, passes: int) -> None:
    whole = without_noise(built(settings, parts))
    images, labels = first_batch(whole)
    cut = without_noise(built(settings, parts, accumulate=passes))
    one, several = (step(trainer, images, labels) for trainer in (whole, cut))
    assert torch.stack(several).tolist() == pytest.approx(torch.stack(one).tolist(), rel=1e-5)


def test_a_step_takes_a_batch_for_each_pass(settings: Options, parts: Splits) -> None:
    trainer = built(settings, parts, batch_size=8, accumulate=3)
    assert trainer.batches.batch_size == 24
    assert trainer.images_per_pass() == 8
    assert [len(piece.labels) for piece, _ in trainer.passes(as_batch(*first_batch(trainer)))] == [8, 8, 8]


@pytest.mark.parametrize(
    ("rest", "each", "sizes"),
    [(1, 8, [7, 7, 7, 6, 6]), (7, 8, [8, 8, 8, 8, 7]), (1, 2, [3, 2, 2, 2]), (0, 8, [8, 8, 8, 8])],
)
def test_a_batch_with_the_rest_of_the_epoch_has_more_passes_and_none_of_one_image(
    settings: Options, parts: Splits, rest: int, each: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(settings, parts, batch_size=each, accumulate=4)
    images = 4 * each + rest
    batches = EpochBatches(np.zeros(images, np.int64), 4 * each, 0, passes=4)
    monkeypatch.setattr(trainer, "data", dataclasses.replace(trainer.data, batches=batches))
    batch = as_batch(torch.zeros(images, 32, 32, 3, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64))
    assert [len(piece.labels) for piece, _ in trainer.passes(batch)] == sizes
    assert trainer.images_per_pass() == max(sizes)


def test_no_gpu_of_several_has_one_image_in_a_pass(
    settings: Options, parts: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(settings, parts, batch_size=6, accumulate=2)  # of two images for each of three GPUs
    monkeypatch.setattr(trainer, "topology", Topology(torch.device("cpu"), gpus=3))
    batch = as_batch(torch.zeros(19, 32, 32, 3, dtype=torch.uint8), torch.zeros(19, dtype=torch.int64))
    sizes = [len(piece.labels) for piece, _ in trainer.passes(batch)]
    assert sizes == [10, 9]  # as 4, 4, 2 and 3, 3, 3; in three passes 7 images would be 3, 3, 1


def test_ddp_sums_up_in_the_last_pass_alone(
    settings: Options, parts: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrapped(nn.Module):
        synchronised = True

        @contextlib.contextmanager
        def no_sync(self) -> Iterator[None]:
            self.synchronised = False
            yield
            self.synchronised = True

    monkeypatch.setattr("skin.training.trainer.DistributedDataParallel", Wrapped)
    trainer, model = built(settings, parts, accumulate=3), Wrapped()
    trainer.model = model
    seen = []
    for _, context in trainer.passes(as_batch(*first_batch(trainer))):
        with context:
            seen.append(model.synchronised)
    assert seen == [False, False, True]


def test_more_passes_than_images_are_refused(settings: Options, parts: Splits) -> None:
    with pytest.raises(UserError, match="images a step are too few for 999 passes; use a smaller --accum"):
        built(settings, parts, accumulate=999)
    images = len(parts.of("train"))
    with pytest.raises(UserError, match=r"a batch of one 32-pixel image .* a smaller --accumulate"):
        built(settings, parts, accumulate=images, batch_size=images, image_size=32)


def test_what_is_validated_is_the_mean_of_the_weights(settings: Options, parts: Splits) -> None:
    trainer = built(settings, parts, ema=0.5)
    images, labels = first_batch(trainer)
    name, seen = "classifier.1.bias", []
    for _ in range(3):
        step(trainer, images, labels)
        seen.append(state_of(trainer)[name])
    first, second, third = seen
    mean = first + (1 - 2 / 11) * (second - first)
    mean = mean + (1 - 3 / 12) * (third - mean)
    assert torch.allclose(trainer.validated.network.state_dict()[name], mean, atol=1e-7)
    assert trainer.validating() is trainer.validated
    assert not torch.equal(mean, third)
