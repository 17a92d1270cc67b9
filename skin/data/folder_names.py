"""The words in the names of folders: those of splits, of pieces of a download, of masks and of diseases.

A folder is a class only if its name is more than such words. `benign_images` may be a class; `train_set`,
`images_2`, `Fold1`, `HAM10000_images_part_1` and `ISBI2016_ISIC_Part3_Training_Data` are none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from skin.data.class_names import is_disease

# The splits, under the names that data sets have for them.
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLITS = SPLITS | {
    "trn": "train", "trainval": "train", "validate": "val", "validating": "val",
    "tst": "test", "eval": "test", "evaluation": "test", "holdout": "test",
    "validierung": "val",  # German; then French, Spanish, Portuguese and Italian
    "entraînement": "train", "entrainement": "train", "apprentissage": "train",
    "entrenamiento": "train", "validación": "val", "validacion": "val", "prueba": "test", "pruebas": "test",
    "treinamento": "train", "treino": "train", "validação": "val", "validacao": "val", "teste": "test",
    "addestramento": "train", "validazione": "val",
}  # fmt: skip
_SPLIT = re.compile(
    rf"({'|'.join(_SPLITS)})(sets?|data|dirs?|folders?|images?|imgs|splits?|s?(daten(satz)?|bilder|ordner))?"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MASKS = _words("""
    mask masks segmentation segmentations seg superpixel superpixels truth groundtruth gt roi rois contour
    contours annotation annotations heatmap heatmaps
""")
# Such a folder may hold images of its own.
_MAYBE_MASKS = _words("segmented annotated masked binary overlay overlays gradcam label labels")
# `ISIC_0000000_segmentation.png` beside `ISIC_0000000.jpg`, `D12_contour.png` beside `D12_orig.jpg`
_MASK_WORDS = (
    r"segmentations?|segmented|superpixels?|masks?|masked|seg|gt|ground_?truth|contours?|bin(?:ary)?|overlays?|"
    r"annotat(?:ed|ions?)|labels?|heatmaps?|grad_?cam"
)
_MASK_LAST = re.compile(
    rf"(.+?)[ _.(-]+(?:({_MASK_WORDS})(?:[ _-]?\d+)?\)?|(lesion|roi|attribute_\w+))", re.IGNORECASE
)
_MASK_FIRST = re.compile(rf"({_MASK_WORDS})[ _.-]+(.+)", re.IGNORECASE)
# `A1amask.png` beside `A1a.png`
_MASK_GLUED = ("mask", "masks", "segmentation", "segmentations", "seg", "gt", "roi", "contour", "contours")
# Pictures that are made of others: a copy in training of a picture in the test split flatters the model.
_COPIES = _words("""
    augmented augmentation augmentations augment aug copy copies resized cropped processed preprocessed rotated
    flipped mirrored synthetic oversampled upsampled balanced normalized normalised
""")
_AUGMENTED = _words("augmented augmentation augmentations augment aug oversampled upsampled")  # of one, several
NUMBERED_CLASSES = _words("class category cls grade stage type level label score group cluster")
_PLAIN_NUMBER = re.compile(r"[ _.-]\d\d?$")
_SMALL = (*map(str, range(100)), *(f"0{number}" for number in range(10)))
_DECIMAL = re.compile(r"(?<![v\d.,])\d+[.,]\d+(?![\d.,]*\d)")  # `(0.8)`; no version, no date
_NEXT_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
_CAPITALS = re.compile(r"[A-Z]{2,}(?=[A-Z][a-z])")  # the JPEG of `JPEGImages`
_SPELT_OUT = (  # nnU-Net's folders, and those that cameras make in DCIM
    (re.compile(r"(?<=[Ii]mages|[Ll]abels)Tr(?![a-z])"), " train"),
    (re.compile(r"(?<=[Ii]mages|[Ll]abels)Ts(?![a-z])"), " test"),
    (re.compile(r"(?<=^\d\d\d)(APPLE|ANDRO|CANON|CASIO|MEDIA|MSDCF|NIKON|OLYMP|_FUJI|_PANA)$"), " dcim"),
)
_PIECES = _words("""
    image images img imgs picture pictures photo photos jpeg jpg png bmp tif tiff dicom dcm hdf file files
    input inputs output outputs data dataset datasets set sets subset dir dirs directory folder folders
    archive download downloads part parts fold folds split splits batch chunk shard volume vol original
    originals orig raw clean cleaned unlabeled unlabelled labels isic isbi ham bcn
    ph pad ufes msld milk scin midas dermnet kaggle challenge task dcim
    bild bilder foto fotos daten datensatz ordner imagen imágenes imagenes datos carpeta données donnees dossier
    imagem imagens dados immagini
""")
_NUMBERED = re.compile(r"(?:^|[^a-z])(part|fold|batch|chunk|shard)s?[\W_]*\d+(?![a-z\d])", re.IGNORECASE)
_MERGED = _PIECES - _words("fold folds split splits original originals orig raw clean cleaned labels")
_DOUBTFUL = _words("""
    to sort todo unsorted misc miscellaneous various other others rest unknown unclear uncertain undecided
    new tmp temp trash bin deleted rejected old backup check review runs none na models logs plots figures results
    docs screenshots examples samples sample demo
""")
_WAYS = _words("""
    dermoscopy dermoscopic dermatoscopy dermatoscopic dermoscope dermatoscope clinical clinic macro macroscopic
    closeup smartphone overview tbp
""")


def as_name(name: str) -> str:
    """Return a folder's name as text: composed (macOS stores `ä` as two characters), without spaces around it."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode()).strip()


def words_of(name: str) -> list[str]:
    """Return the words and numbers in a name, in small letters: `JPEGData_v2` is `jpeg`, `data`, `v`, `2`."""
    for short, words in _SPELT_OUT:
        name = short.sub(words, name)
    name = _CAPITALS.sub(_apart_if_known, _NEXT_WORD.sub(" ", name))
    return re.findall(r"[^\W\d_]+|\d+", name.lower())


def by_words(names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Return the names that have the same words and numbers, in the same order, by these."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        found.setdefault(tuple(words_of(name)), []).append(name)
    return found


def common_words(names: Iterable[str]) -> frozenset[str]:
    """Return the words that all names share; none for a single name."""
    words = [frozenset(words_of(name)) for name in names]
    return frozenset.intersection(*words) if len(words) > 1 else frozenset()


def split_of(name: str, common: frozenset[str] = frozenset()) -> str:
    """Return the split that a folder's name holds (`train`, `val` or `test`); `""` if it holds none or two.

    `train_val` is training, from which a validation split will be cut.
    """
    found = {_SPLITS[match[1]] for word in words_of(name) if word not in common and (match := _SPLIT.fullmatch(word))}
    if found == {"train", "val"}:
        return "train"
    return found.pop() if len(found) == 1 else ""


def is_of_table(name: str, table: str) -> bool:
    """Return True if a folder has the name of a table, `train.csv`, or is the split that the table is named after."""
    words = words_of(table.rpartition(".")[0])
    return bool(words) and (words_of(name) == words or (is_plain(name) and split_of(name) == split_of(table) != ""))


def is_plain(name: str) -> bool:
    """Return True if a name has no word of its own: `train`, `test_set`, `images_2`, `ISIC2018_Training_Input`."""
    return not _own_words(name)


def is_train_and_val(name: str) -> bool:
    """Return True if a folder is the training and the validation split together: `trainval`, `train_val`."""
    return bool(re.search("train[ _-]?val", name, re.IGNORECASE))


def split_in_class(name: str, label: str) -> str:
    """Return the split that a folder in the class folder `label` is (`train_set`, `mel_train`); `""` if none."""
    words = frozenset(words_of(label))
    return "" if _own_words(name, words) else split_of(name, words)


def split_of_folders(path: str) -> str:
    """Return the split that a folder in a path is, `data/train/part_1`; `""` if none is.

    Of several it is the one that is farthest from training: `test/val` is test, and `train/val` is val.
    """
    found = {split_in_class(name, "") for name in path.split("/")}
    return next((split for split in ("test", "val", "train") if split in found), "")


def is_piece(name: str, common: frozenset[str] = frozenset()) -> bool:
    """Return True if a folder is no class but a split or a piece of a download, by its name.

    Args:
        common: the words that it shares with all folders beside it.
    """
    words = words_of(name)
    if not has_word_of_download(name):
        return False
    if _NUMBERED.search(name) and not common.issuperset(words):
        return True
    return not _own_words(name, common) or bool(split_of(name, common))


def has_word_of_download(name: str) -> bool:
    """Return True if a name has a word of splits, masks or pieces of a download, whatever else it has."""
    return any(_is_of_download(word) for word in words_of(name))


def is_merged(name: str) -> bool:
    """Return True if a piece of a set may be read together with its like: `part_1`, and not `Fold1` or `raw`."""
    words = [word for word in words_of(name) if len(word) > 1 and word.isalpha()]
    return all(_SPLIT.fullmatch(word) or word in _MERGED for word in words)


def mask_of(stem: str) -> tuple[str, str] | None:
    """Return the image that a mask is of, and the word that tells, by its name; None if it is not named like one."""
    if match := _MASK_LAST.fullmatch(stem):
        return match[1], (match[2] or match[3]).lower()
    if match := _MASK_FIRST.fullmatch(stem):
        return match[2], match[1].lower()
    if word := next(filter(stem.lower().endswith, _MASK_GLUED), ""):
        return stem[: -len(word)], f"…{word}"  # another kind: less sure than the word by itself
    return None


def is_masks(name: str, beside: Mapping[tuple[str, ...], list[str]]) -> bool:
    """Return True if a folder is named like one of masks; `beside` has its like, `by_words`."""
    words = _words_of_masks(name)
    known = _MASKS | _MAYBE_MASKS
    if not known.intersection(words):
        return False
    if {"segmentation", "segmentations", "superpixel", "superpixels"}.intersection(words):
        return True
    own = [word for word in words if word not in known]
    whole = all(_is_of_download(word) or word in ("ground", "lesion", "lesions") for word in own)
    return whole or tuple(own) in beside


def may_hold_images(name: str) -> bool:
    """Return True if a folder that is named like one of masks may hold other images, too: `annotated`, `overlay`."""
    return not _MASKS.intersection(_words_of_masks(name))


def has_word_of_masks(name: str) -> bool:
    """Return True if a name has a word of masks, whatever else it has."""
    return not (_MASKS | _MAYBE_MASKS).isdisjoint(_words_of_masks(name))


def _words_of_masks(name: str) -> list[str]:
    return words_of(re.sub("grad[ _-]?cam", "gradcam", name, flags=re.IGNORECASE))


def copied_from(name: str, beside: Mapping[tuple[str, ...], list[str]], numbered: bool = True) -> str:
    """Return the folder whose copies `name` holds, such as `mel` for `mel - Copy`; `""` if there is none.

    Args:
        beside: the folders that are there, `by_words`.
        numbered: a number tells a copy, too: `mel (1)`, `mel_224x224`, `mel_v2`; not that of a `grade 1`, `T1` or
            `melanoma (0.8)`, nor `acne 1` and `acne 2` beside `acne`.
    """
    words = words_of(name)
    own = [word for word in words if word not in _COPIES]
    kept = own
    while kept and (kept[-1].isdigit() or (kept[-1] in ("v", "x") and len(kept) < len(own))):
        kept = kept[:-1]
    copies = [own] if len(own) < len(words) else []
    if len(kept) < len(own) and (copies or (numbered and not _tells_class(name, own, len(kept), beside))):
        copies.append(kept)  # `mel - Copy (2)`
    others = [other for kept in copies if kept for other in beside.get(tuple(kept), ())]
    return max(others, key=name.startswith, default="")  # `ER- - Copy` is no copy of `ER+`


def _tells_class(name: str, words: list[str], kept: int, beside: Mapping[tuple[str, ...], list[str]]) -> bool:
    """Return True if the number behind the first `kept` words of a name may be that of a class, not of a copy."""
    base, number = words[:kept], words[kept]
    if NUMBERED_CLASSES.intersection(base) or _DECIMAL.search(name.lower()):
        return True
    if base and number.isdigit() and base[-1] + number in name.lower():
        return True
    if tuple(base) not in beside or not _PLAIN_NUMBER.search(name):
        return False
    alike = (other for key in _SMALL for other in beside.get((*base, key), ()) if _PLAIN_NUMBER.search(other))
    return any(other != name for other in alike)


def is_made_of_others(name: str) -> bool:
    """Return True if a folder's name says that its pictures are made of others: augmented, resized, cropped."""
    return bool(_COPIES.intersection(words_of(name)))


def is_augmented(name: str) -> bool:
    """Return True if a folder is named like several altered copies of each image; `Aug` and `Aug 2023` are dates."""
    words = words_of(name)
    if words == ["aug"]:
        return False
    return not _AUGMENTED.isdisjoint(words) and not any(re.fullmatch(r"(19|20)\d\d", word) for word in words)


def copies_above(names: Iterable[str]) -> str:
    """Return the first of the folders' names that says that it holds altered copies (`is_augmented`), or `""`."""
    return next(filter(is_augmented, map(as_name, names)), "")


def is_doubtful(name: str) -> bool:
    """Return True if a folder may have been put aside rather than be a class: `to sort`, `misc`, `others`."""
    return all(word in _DOUBTFUL for word in words_of(name))


def is_way_of_imaging(name: str) -> bool:
    """Return True if a folder is named after a way to take images: `dermoscopy`, `clinical images`."""
    own = _own_words(name)
    return bool(own) and _WAYS.issuperset(own)


def is_numbered(name: str) -> bool:
    """Return True if a name has a number, as those of patients and lesions have."""
    return any(word.isdigit() for word in words_of(name))


def names_disease(name: str) -> bool:
    """Return True if a folder is named after a disease that is known here, or benign, malignant and the like."""
    return is_disease(name) or any(is_disease(word) for word in words_of(name) if len(word) > 5)


def _apart_if_known(capitals: re.Match[str]) -> str:
    word = capitals[0]
    return f"{word} " if _is_of_download(word.lower()) else word  # no `TRAI Nset`, no `BC Cs`


def _is_of_download(word: str) -> bool:
    return word in _PIECES or word in _COPIES or word in _MASKS or bool(_SPLIT.fullmatch(word))


def _own_words(name: str, common: frozenset[str] = frozenset()) -> list[str]:
    words = [word for word in words_of(name) if word not in common and len(word) > 1 and not word.isdigit()]
    return [word for word in words if not _is_of_download(word)]
