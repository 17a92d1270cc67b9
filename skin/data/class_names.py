"""Names of diseases in the public sets: those that people read, and those that mean the same.

Only spellings and codes of one disease count as the same. A part of a disease (seborrhoeic keratosis
within benign keratosis) is another class. Nothing is guessed from similar words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The name that people read, and every code and name that the public sets use for it:
# HAM10000 and ISIC 2018 (akiec, bcc, ...), ISIC 2019 (AK, SCC, UNK), PAD-UFES-20 (ACK, NEV, SEK),
# DermaMNIST and the ISIC Archive (names in full).
_SAME: dict[str, tuple[str, ...]] = {
    "actinic keratosis": (
        "akiec", "ak", "ack", "actinic keratoses", "actinic keratoses and intraepithelial carcinoma",
        "actinic keratoses and intraepithelial carcinomae", "solar or actinic keratosis",
    ),
    "basal cell carcinoma": ("bcc",),
    "benign keratosis": ("bkl", "benign keratosis-like lesion", "benign keratosis-like lesions"),
    "dermatofibroma": ("df",),
    "melanoma": ("mel", "malignant melanoma", "melanoma, nos"),
    "melanocytic nevus": (
        "nv", "nev", "nevus", "naevus", "nevi", "melanocytic nevi", "melanocytic naevus", "melanocytic naevi",
    ),
    "vascular lesion": ("vasc", "vascular lesions", "vascular"),
    "squamous cell carcinoma": ("scc", "squamous cell carcinoma, nos"),
    "seborrhoeic keratosis": ("sek", "seborrheic keratosis"),
}  # fmt: skip
_NAMES = {code: name for name, codes in _SAME.items() for code in (name, *codes)}
# Other names and words by which a folder of skin pictures is known to be a class.
_KNOWN = frozenset((
    "benign", "malignant", "melanoma", "melanomas", "naevus", "nevus", "keratosis", "keratoses", "carcinoma",
    "dermatofibroma", "dermatitis", "eczema", "psoriasis", "acne", "rosacea", "vitiligo", "tinea", "cancer",
    "healthy", "normal", "melanocytic", "lentigo", "monkeypox", "chickenpox", "measles",
))  # fmt: skip

# Cancers and their precursors. In HAM10000, actinic keratosis is one class with Bowen's disease, which is squamous
# cell carcinoma in situ.
MALIGNANT = (
    "actinic keratosis", "basal cell carcinoma", "melanoma", "squamous cell carcinoma", "malignant",
)  # fmt: skip
BENIGN = (
    "benign keratosis", "dermatofibroma", "melanocytic nevus", "seborrhoeic keratosis", "vascular lesion", "benign",
)  # fmt: skip
# Words of other malignant classes, such as "nodular melanoma", and those that turn a name into its opposite.
_MALIGNANT_WORDS = frozenset((
    "melanoma", "melanomas", "carcinoma", "carcinomas", "malignant", "malignancy", "cancer", "sarcoma", "lymphoma",
    "bowen", "bowen's", "maligna", "premalignant", "sccka",
))  # fmt: skip
_NOT = frozenset(("no", "non", "not", "benign", "without"))

# The order of the classes in DermaMNIST's labels 0 to 6; they are HAM10000's.
DERMAMNIST = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
ISIC_2018 = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
ISIC_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
MILK10K = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def readable_name(cls: str) -> str:
    """Return a class as people read it, `melanoma (mel)`; a name that is no known code stays as it is."""
    key = _key(cls)
    name = _NAMES.get(key)
    return cls if name is None or name == key or len(key) > 5 else f"{name} ({cls})"


def same_disease(cls: str) -> str:
    """Return the same text for all codes and names of one disease, whatever their case, `_` and spaces."""
    key = _key(cls)
    return _NAMES.get(key, key)


def is_disease(name: str) -> bool:
    """Return True if a name is one of a disease in the public sets, or `benign`, `normal` and the like."""
    return _key(name) in _NAMES or _key(name) in _KNOWN


def is_malignant(name: str) -> bool:
    """Return True for a class that a doctor should see: of `MALIGNANT`, or with a word of such a disease in its name.

    It errs on the side of care, for what people are told. No metric follows from it.
    """
    words = set(_key(name).replace("-", " ").split())
    return same_disease(name) in MALIGNANT or _key(name) == "mal oth" or bool(
        words & _MALIGNANT_WORDS and not words & _NOT
    )


@dataclass(frozen=True)
class ClassMatch:
    """The pairs of classes of a data set and a model.

    `to_model` takes a data class to its model class. `unmatched_data` and `unmatched_model` are the
    classes that have no partner, in their own order.
    """

    to_model: dict[str, str]
    unmatched_data: tuple[str, ...]
    unmatched_model: tuple[str, ...]


def match_classes(model_classes: Sequence[str], data_classes: Iterable[str]) -> ClassMatch:
    """Match the classes of a data set to those of a model by name.

    The same name counts first, then the same name apart from case, `_` and spaces, then another name of the
    same disease. If two model classes would do, neither is taken.
    """
    to_model: dict[str, str] = {}
    data = tuple(dict.fromkeys(data_classes))
    for cls in data:
        key = _key(cls)
        name = _NAMES.get(key)
        for alike in (
            [m for m in model_classes if m == cls],
            [m for m in model_classes if _key(m) == key],
            [m for m in model_classes if name is not None and _NAMES.get(_key(m)) == name],
        ):
            if alike:
                if len(alike) == 1:
                    to_model[cls] = alike[0]
                break
    taken = set(to_model.values())
    return ClassMatch(
        to_model,
        tuple(cls for cls in data if cls not in to_model),
        tuple(cls for cls in model_classes if cls not in taken),
    )


def order_of(classes: Sequence[str], others: Sequence[str]) -> list[int] | None:
    """Return, for each of a model's classes, its place among another's; None if the two have not the same classes."""
    match = match_classes(classes, others)
    theirs = {ours: they for they, ours in match.to_model.items()}
    if match.unmatched_data or match.unmatched_model or len(theirs) < len(others):
        return None
    return [others.index(theirs[cls]) for cls in classes]
