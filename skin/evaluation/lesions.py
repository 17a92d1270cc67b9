"""One answer per lesion: the mean of the probabilities of its images."""

from __future__ import annotations

from dataclasses import dataclass

from skin.evaluation.metrics import Array, Floats, Ints

import numpy as np


@dataclass(frozen=True)
class Lesions:
    """L lesions, sorted by name.

    Attributes:
        names: [L].
        first: int [L], the row of an image of each.
        of_image: int [N], the lesion of each image.
        probabilities: float [L, C], the mean over the images of a lesion.
    """

    names: Array
    first: Ints
    of_image: Ints
    probabilities: Floats


def by_lesion(names: Array, probabilities: Floats) -> Lesions:
    """Average the answers over the images of each lesion.

    Args:
        names: [N], the lesion of each image.
        probabilities: float [N, C].
    """
    lesions, first, of_image, images = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(lesions), probabilities.shape[1]))
    np.add.at(sums, of_image, probabilities)
    return Lesions(lesions, first, of_image, sums / images[:, None])
