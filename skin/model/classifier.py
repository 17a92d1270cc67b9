"""A trained model for other programs: images in, class names and probabilities out.

    from skin import load_classifier

    model = load_classifier()  # the model of the newest run
    prediction = model.predict("lesion.jpg")
    print(prediction.label, prediction.probability, prediction.prediction_set)
    model.explain("lesion.jpg", "mel").save("why_melanoma.png")

`predict.py` and `app.py` use this. It imports only the modules that a prediction needs, since most of the time from
a command to its answer is spent on imports.
"""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, NamedTuple, TypeVar, overload

from skin.data.images import ImageError, centre_crop, read_image, stored_image
from skin.model import calibration, tta
from skin.model.checkpoint import Checkpoint, load_best
from skin.model.choices import VIEWS
from skin.model.facts import facts_of
from skin.model.fold_batchnorm import for_inference
from skin.model.grad_cam import grad_cam, overlay
from skin.model.precision import choose
from skin.utils.driver import cuda_available, unusable_gpus
from skin.utils.errors import UserError
from skin.utils.run_folders import newest_model

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Source = str | Path | BinaryIO | Image.Image | np.ndarray
"""An image: a path, an open binary file, a Pillow image, or an array. Arrays are uint8 or uint16 [H, W] grey,
uint8 [H, W, 3] RGB or [H, W, 4] RGBA."""

Known = Mapping[str, object]
"""What is known of an image beside its pixels, by the name of a column: numbers, words, None."""

SourceT = TypeVar("SourceT", bound=Source)
T = TypeVar("T")
R = TypeVar("R")

_BATCH_PIXELS = 16 * 224 * 224  # sixteen images of 224 pixels; more are no faster on a CPU
_BATCH_PIXELS_GPU = 16 * _BATCH_PIXELS
_MOST_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image.

    Attributes:
        classes: the class names, in the model's order.
        probabilities: float64 [C], calibrated, adding up to one; read-only.
        prediction_set: the classes in the 90 % prediction set, in the order of `top`. They hold the true class for
            nine in ten images like those of the training set.
        prediction_set_95: the same for 95 %.
        unlike: the image is unlike the training images; the probabilities mean little.
        decision: the rule by which `label` is chosen (`skin.model.calibration`); the label leads the ranking and is
            in every prediction set.
        scores: float64 [C], which rank the classes by that rule; None are the probabilities.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    prediction_set: tuple[str, ...]
    prediction_set_95: tuple[str, ...]
    unlike: bool
    decision: str = calibration.MOST_PROBABLE
    scores: np.ndarray | None = None

    @property
    def label(self) -> str:
        """The class that is called."""
        return self.top(1)[0][0]

    @property
    def probability(self) -> float:
        """The probability of `label`."""
        return self.top(1)[0][1]

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        """Return the first `k` classes by the rule, or all if there are fewer, and their probabilities."""
        scores = self.probabilities if self.scores is None else self.scores
        order = np.argsort(-scores, kind="stable")[:k]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The evidence for one class, as a heat map.

    Attributes:
        class_name: the class that was asked about.
        image: uint8 [S, S, 3], RGB: the part of the picture that the model looked at.
        heat: float32 [S, S], 0 to 1; all 0 if there is no evidence for the class.
    """

    class_name: str
    image: np.ndarray
    heat: np.ndarray

    @property
    def overlay(self) -> np.ndarray:
        """The heat laid over the picture, uint8 [S, S, 3]."""
        return overlay(self.image, self.heat)

    def save(self, path: str | Path) -> None:
        """Write the overlay as an image; the file name's ending gives the format.

        Raises:
            UserError: it cannot be written there.
        """
        try:
            Image.fromarray(self.overlay).save(path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise UserError(f"cannot write {path}: {error}; end its name in .png or .jpg") from error


class Answer(NamedTuple, Generic[SourceT]):
    """The outcome for one image of a stream: a prediction, or the reason why there is none."""

    source: SourceT
    prediction: Prediction | None
    error: ImageError | None
    explanation: Explanation | None


class SkinClassifier:
    """A model ready to predict. Make one with `load_classifier`.

    Nothing in it changes after it is made: any number of threads may call it at once.

    Attributes:
        classes: the class names, in the order of all probabilities.
        model_name: such as `efficientnet_b3`.
        description: one line: the file, the data it was trained on, its validation score.
        facts: what people are told of the model before they rely on it.
        preprocess: how images are prepared; kept in the checkpoint.
        device: the device of the model.
        encoder: of what the model takes beside the pixels, such as age and sex; None if it takes nothing.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, amp: str = "auto") -> None:
        self.classes = checkpoint.classes
        self.model_name = checkpoint.model_name
        self.description = checkpoint.describe()
        self.facts = facts_of(checkpoint)
        self.preprocess = checkpoint.preprocess
        self.device = device
        self.encoder = checkpoint.encoder
        self._calibration = checkpoint.calibration
        self._model = for_inference(checkpoint, choose(checkpoint.amp(amp), device)).requires_grad_(False).to(device)

    @overload
    def predict(self, images: Source, *, views: int = 1, metadata: Known | None = None) -> Prediction: ...

    @overload
    def predict(
        self, images: list[SourceT] | tuple[SourceT, ...], *, views: int = 1, metadata: Known | None = None
    ) -> list[Prediction]: ...

    def predict(
        self, images: Source | list[SourceT] | tuple[SourceT, ...], *, views: int = 1, metadata: Known | None = None
    ) -> Prediction | list[Prediction]:
        """Classify one image, or a list of them (see `stream` for folders of any size).

        Args:
            images: see `Source`.
            views: 1 to 8 views of each image (turned, mirrored) to average over, at as many times the cost.
            metadata: of all these images, such as `{"age": 55, "sex": "female"}`. What is not given is missing, and
                so is what the model does not know (see `encoder`): a `UserWarning` says it.

        Returns:
            A `Prediction`, or a list of them in the order of the images.

        Raises:
            ImageError: an image cannot be read; `.path` and `.reason` say which and why.
        """
        for problem in self.problems(metadata or {}):
            warnings.warn(problem, stacklevel=2)
        if not isinstance(images, (list, tuple)):
            return self.predict_pixels(self.pixels(images)[None], views=views, metadata=_each(metadata, 1))[0]
        results: list[Prediction] = []
        for batch in _batched(images, self._batch_size()):
            pixels = np.stack([self.pixels(image) for image in batch])
            results += self.predict_pixels(pixels, views=views, metadata=_each(metadata, len(batch)))
        return results

    def explain(self, image: Source, class_name: str | None = None) -> Explanation:
        """Return the evidence for `class_name`, or for the label, by Grad-CAM.

        Raises:
            ImageError: the image cannot be read.
            UserError: the model has no such class.
        """
        pixels = self.pixels(image)
        name = class_name if class_name is not None else self.predict_pixels(pixels[None])[0].label
        return self.explain_pixels(pixels[None], [name])[0]

    def stream(
        self, sources: Iterable[SourceT], *, views: int = 1, explain: bool = False, workers: int | None = None,
        metadata: Callable[[SourceT], Known] | None = None,
    ) -> Iterator[Answer[SourceT]]:
        """Classify any number of images, in constant memory, in their order.

        Each worker thread decodes a batch and runs the model on it by itself. So decoding and computing overlap,
        and no core waits for another.

        Args:
            sources: taken a few batches ahead; may be endless.
            views: as in `predict`.
            explain: also explain each image's label.
            workers: threads; by default one per core, at most 8, and two for a GPU.
            metadata: returns those of a source; it is called in any of the threads. Nothing is said of a value that
                the model does not know: `problems` tells.

        Yields:
            One `Answer` per source. A source that cannot be read has its `error`, and does not hold up the others.
        """

        def work(batch: list[SourceT]) -> list[Answer[SourceT]]:
            return self._answer(batch, views, explain, metadata)

        batches = _batched(sources, self._batch_size())
        first = list(itertools.islice(batches, 2))
        if len(first) < 2:  # all cores together finish one batch sooner
            for batch in first:
                yield from work(batch)
            return
        threads = torch.get_num_threads()
        # A GPU computes one batch at a time; a second one is prepared meanwhile.
        workers = workers or (2 if self.device.type == "cuda" else min(threads, _MOST_WORKERS))
        each = max(1, threads // workers)
        pool = ThreadPoolExecutor(workers, "predict", initializer=torch.set_num_threads, initargs=(each,))
        try:
            yield from _in_order(pool, work, itertools.chain(first, batches), ahead=workers + 1)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # the workers set it for threads that are still to come, too

    def pixels(self, image: Source) -> np.ndarray:
        """Return the square that the model looks at, uint8 [S, S, 3], RGB. Raises `ImageError`."""
        if isinstance(image, (np.ndarray, Image.Image)):
            stored = stored_image(image, self.preprocess)
        elif not (isinstance(image, (str, Path)) or hasattr(image, "read")):
            kinds = "a path, an open file, a PIL image or an array; bytes are given as io.BytesIO(bytes)"
            raise TypeError(f"{type(image).__name__} is no image: give {kinds}")
        else:
            stored = read_image(image, self.preprocess)
        return centre_crop(stored, self.preprocess.image_size)

    def problems(self, metadata: Known) -> list[str]:
        """Return a line for each value that a prediction does not use as it is, or not at all."""
        if self.encoder is None:
            return [f"{', '.join(metadata)}: this model takes the pixels alone"] if metadata else []
        return self.encoder.problems(metadata)

    def predict_pixels(
        self, pixels: np.ndarray, *, views: int = 1, metadata: Sequence[Known] | None = None
    ) -> list[Prediction]:
        """Classify squares from `pixels`, uint8 [B, S, S, 3], in one batch, each with metadata of its own.

        Logits and traits are averaged over the views, then calibrated.
        """
        if not 1 <= views <= VIEWS:
            raise UserError(f"cannot average over {views} views; choose 1 to {VIEWS}")
        images = torch.from_numpy(pixels).to(self.device)
        _, (logits, traits) = tta.averaged(self._forward, images, views, self._encoded(metadata))
        calibrated = calibration.apply(self._calibration, logits.cpu().numpy(), traits.cpu().numpy())
        if not np.isfinite(calibrated.probabilities).all():
            remedy = "try --amp off (in Python amp='off'), or another checkpoint"
            raise UserError(f"the model's answers are not finite; {remedy}")
        calibrated.probabilities.flags.writeable = False
        return [
            Prediction(
                self.classes,
                probabilities,
                self._names(calibrated.scores[i], calibrated.sets[i]),
                self._names(calibrated.scores[i], calibrated.sets_95[i]),
                bool(calibrated.unlike[i]),
                calibrated.rule,
                calibrated.scores[i],
            )
            for i, probabilities in enumerate(calibrated.probabilities)
        ]

    def explain_pixels(
        self, pixels: np.ndarray, class_names: Sequence[str], metadata: Sequence[Known] | None = None
    ) -> list[Explanation]:
        """Explain squares from `pixels`, uint8 [B, S, S, 3], each for a class of its own.

        Raises:
            UserError: the model has no such class.
        """
        for name in class_names:
            if name not in self.classes:
                raise UserError(f"the model knows no class {name!r}; it knows {', '.join(self.classes)}")
        indices = torch.tensor([self.classes.index(name) for name in class_names], device=self.device)
        known = self._encoded(metadata)
        heat = grad_cam(self._model, torch.from_numpy(pixels).to(self.device), indices, known).cpu().numpy()
        return [Explanation(*row) for row in zip(class_names, pixels, heat, strict=True)]

    def _answer(
        self, batch: list[SourceT], views: int, explain: bool, metadata: Callable[[SourceT], Known] | None
    ) -> list[Answer[SourceT]]:
        readable: list[np.ndarray] = []
        known: list[Known] = []
        errors: list[ImageError | None] = []
        for source in batch:
            try:
                readable.append(self.pixels(source))
                known.append(metadata(source) if metadata else {})
                errors.append(None)
            except ImageError as error:
                errors.append(error)
        predictions: Iterator[Prediction] = iter(())
        explanations: Iterator[Explanation | None] = itertools.repeat(None)
        if readable:
            pixels = np.stack(readable)
            predicted = self.predict_pixels(pixels, views=views, metadata=known)
            predictions = iter(predicted)
            if explain:
                explanations = iter(self.explain_pixels(pixels, [p.label for p in predicted], known))
        return [
            Answer(source, None, error, None)
            if error
            else Answer(source, next(predictions), None, next(explanations))
            for source, error in zip(batch, errors, strict=True)
        ]

    @torch.inference_mode()
    def _forward(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._model.answers(images, metadata)

    def _encoded(self, metadata: Sequence[Known] | None) -> Tensor | None:
        """Return metadata as the model takes them, float32 [B, M]; None if there are none, or it takes none."""
        if self.encoder is None or metadata is None:
            return None
        names = dict.fromkeys(name for known in metadata for name in known)
        table = {name: [known.get(name) for known in metadata] for name in names}
        return torch.from_numpy(self.encoder.encode(table, len(metadata))).to(self.device)

    def _names(self, scores: np.ndarray, members: np.ndarray) -> tuple[str, ...]:
        order = np.argsort(-scores, kind="stable")
        return tuple(self.classes[i] for i in order if members[i])

    def _batch_size(self) -> int:
        pixels = _BATCH_PIXELS if self.device.type == "cpu" else _BATCH_PIXELS_GPU
        return max(1, pixels // self.preprocess.image_size**2)


def load_classifier(
    path: str | Path | None = None, *, device: str | None = None, amp: str = "auto"
) -> SkinClassifier:
    """Load the model in a `best.pt`, ready to predict.

    Args:
        path: the file; by default that of the newest run in `runs` that has one.
        device: such as `"cpu"` or `"cuda:1"`; by default a GPU if there is one.
        amp: `"auto"`, `"fp16"`, `"bf16"` or `"off"` (float32); "auto" is float32 for a model that was trained in it.

    Raises:
        UserError: there is no such file, train.py did not write it, or the device does not exist.
    """
    checkpoint = load_best(newest_model() if path is None else Path(path))
    if device is None and (warning := unusable_gpus()):
        warnings.warn(warning, stacklevel=2)
    name = device or ("cuda" if cuda_available() else "cpu")
    try:
        return SkinClassifier(checkpoint, torch.device(name), amp)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot run the model on {name!r}: {reason}") from error


def _each(metadata: Known | None, images: int) -> list[Known] | None:
    return None if metadata is None else [metadata] * images


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[list[T]], list[R]], batches: Iterable[list[T]], ahead: int
) -> Iterator[R]:
    """Yield the results of `work` in order, with at most `ahead` batches begun and not yet given out."""
    waiting: deque[Future[list[R]]] = deque()
    for batch in batches:
        waiting.append(pool.submit(work, batch))
        if len(waiting) > ahead:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()
