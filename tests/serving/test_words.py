"""The words of the page: the same in every language, and the language that the browser asks for."""

from __future__ import annotations

import re

from skin.data.class_names import _SAME
from skin.serving.answer import WEB
from skin.serving.words import PATH, Words, languages, words_for

import pytest

ENGLISH = languages()["en"]
OTHERS = [words for code, words in languages().items() if code != "en"]


def places(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


@pytest.mark.parametrize("words", OTHERS, ids=lambda words: words.language)
def test_every_language_has_every_text_with_the_same_places_in_it(words: Words) -> None:
    for kind in ("texts", "script", "classes", "known"):
        one, other = getattr(ENGLISH, kind), getattr(words, kind)
        assert other.keys() == one.keys()
        assert {key: places(text) for key, text in other.items()} == {key: places(text) for key, text in one.items()}
        assert all(text.strip() for text in other.values())


def test_every_disease_of_the_public_sets_has_a_name_of_its_own_for_people() -> None:
    for words in languages().values():
        assert set(_SAME) < words.classes.keys()
        assert len(set(words.classes.values())) == len(words.classes)


def test_every_text_is_used_and_every_text_that_is_used_is_there() -> None:
    sources = "".join(path.read_text() for path in [*PATH.parent.glob("*.py"), *WEB.glob("*.html")])
    asked = set(re.findall(r'words\("(\w+)"', sources))
    assert asked <= ENGLISH.texts.keys()
    assert {key for key in ENGLISH.texts if f'"{key}"' not in sources} == set()
    script = "".join(path.read_text() for path in WEB.glob("*.js"))
    assert set(re.findall(r'say\("(\w+)"', script)) <= ENGLISH.script.keys()
    assert {key for key in ENGLISH.script if f'"{key}"' not in script} == set()


@pytest.mark.parametrize(
    ("accepted", "code"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr-FR,fr;q=0.9,es;q=0.4,en;q=0.3", "es"),
        ("en;q=0.2,de;q=0.7", "de"),
        ("ES", "es"),
        ("fr", "en"),
        ("de;q=0", "en"),
        ("de;q=much,es", "es"),
        ("*", "en"),
        ("", "en"),
    ],
)
def test_the_browser_gets_the_language_that_it_likes_best_of_those_there_are(accepted: str, code: str) -> None:
    assert words_for(accepted).language == code


def test_classes_get_names_that_people_know_and_no_two_alike() -> None:
    german = languages()["de"]
    assert german.names(("mel", "nv")) == {"mel": "Melanom", "nv": "Nävus"}
    assert ENGLISH.names(("nv", "nevus", "mel")) == {"nv": "nv", "nevus": "nevus", "mel": "melanoma"}
    assert ENGLISH.names(("spitz_nevus",)) == {"spitz_nevus": "spitz nevus"}
    assert ENGLISH.names(("黑色素瘤",)) == {"黑色素瘤": "黑色素瘤"}
    assert ENGLISH.names(("ورم ميلانيني",)) == {"ورم ميلانيني": "\u2068ورم ميلانيني\u2069"}


def test_lists_and_shares_are_written_as_the_language_does() -> None:
    german = languages()["de"]
    assert german.listed(["a"]) == "a"
    assert german.listed(["a", "b"]) == "a und b"
    assert ENGLISH.listed(["a", "b", "c"]) == "a, b and c"
    assert german.percent(0.9214) == "92,1\u00a0%"
    shares = [ENGLISH.percent(p)[:-2] for p in (0.0, 0.0004, 0.5, 0.9996, 1.0)]
    assert shares == ["0.0", "< 0.1", "50.0", "> 99.9", "100.0"]
