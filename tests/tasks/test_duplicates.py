from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.tasks import duplicates
from peftport.tasks.duplicates import may_be_near, near_examples, normalise

Key = tuple[str, ...]


def alike(a: str, b: str) -> bool:
    """The definition, pair by pair."""
    x, y = a.split(" "), b.split(" ")
    if min(len(set(x)), len(set(y))) < 8:
        left, right = {(w,) for w in x}, {(w,) for w in y}
    else:
        left, right = ({tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (x, y))  # type: ignore[misc]
    return 10 * len(left & right) >= 7 * len(left | right)


def brute_force(keys: list[Key], against: list[Key]) -> list[bool]:
    return [any(all(map(alike, key, other)) for other in against) for key in keys]


def near(keys: list[str], against: list[str]) -> list[bool]:
    """Near-duplicates among single texts."""
    found: list[bool] = near_examples([(key,) for key in keys], [(key,) for key in against]).tolist()
    return found


def related_texts(seed: int, n: int) -> list[str]:
    """Texts of 1 to 30 words, most of them an earlier one with a few words changed, dropped or repeated."""
    rng = np.random.default_rng(seed)
    texts: list[list[str]] = []
    for _ in range(n):
        words = [f"w{k}" for k in rng.integers(0, 40, rng.integers(1, 31))]
        if texts and rng.random() < 0.7:
            words = list(texts[rng.integers(len(texts))])
            for _ in range(rng.integers(0, 4)):
                place = int(rng.integers(len(words)))
                words[place : place + 1] = [f"w{k}" for k in rng.integers(0, 40, rng.integers(0, 3))] or ["w0"]
        texts.append(words)
    return [" ".join(words) for words in texts]


def related_examples(seed: int, n: int, fields: int) -> list[Key]:
    """Examples of so many fields; several share a field with another one, whole or nearly."""
    rng = np.random.default_rng(seed)
    columns = []
    for field in range(fields):
        texts = related_texts(seed + field, max(1, n // 2))
        columns.append([texts[k] for k in rng.integers(0, len(texts), n)])
    return list(zip(*columns, strict=True))


@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 40), st.integers(1, 2))
@settings(deadline=None)
def test_prefix_filtering_loses_no_pair(seed: int, n: int, m: int, fields: int) -> None:
    """Pairs are near where both fields are: one alike field is nothing, nor are fields alike to those of two pairs."""
    keys = related_examples(seed, n + m, fields)
    assert near_examples(keys[:n], keys[n:]).tolist() == brute_force(keys[:n], keys[n:])


def test_pairs_with_one_field_in_common_are_no_duplicates() -> None:
    one, other = related_texts(3, 60)[40], "completely different words in this one here and now"
    assert near_examples([(one, other)], [(one, "other words"), ("other words", other)]).tolist() == [False]
    assert near_examples([(one, other)], [(one, other + " too")]).tolist() == [True]
    assert near_examples([(one, other)], [(other, one)]).tolist() == [False]


def test_blocks_and_renumbering_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = related_examples(1, 200, fields=2)
    expected = brute_force(keys[:100], keys[100:])
    assert 0 < sum(expected) < 100
    for name, value in (("_ROWS_AT_ONCE", 7), ("_PAIRS_AT_ONCE", 3), ("_LARGEST", 41)):
        monkeypatch.setattr(duplicates, name, value)
    assert near_examples(keys[:100], keys[100:]).tolist() == expected


@given(st.text(), st.text())
def test_normal_forms_are_folded(a: str, b: str) -> None:
    key = normalise(f"{a} {b}")
    assert key == " ".join(key.split())
    assert normalise(f"  {a}\t\n{b} ") == key
    assert bool(key) == bool(f"{a}{b}".strip()) or not normalise(a + b)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Great film!", "great   FILM", True),
        ("co-writer", "co writer", True),
        ("ﬁne", "fine", True),
        ("it's", "it s", True),
        ("good 😀", "good 😡", False),
        (":)", ":(", False),
        ("हिन्दी", "हिनदी", False),
        ("好电影", "好 电影", True),
        ("not good", "good", False),
    ],
)
def test_what_counts_as_a_copy(a: str, b: str, same: bool) -> None:
    assert (normalise(a) == normalise(b)) is same


def test_texts_without_spaces_are_compared_by_character() -> None:
    text = "这部电影的剧情非常精彩演员的表演也很出色值得一看"
    assert near([normalise(text + "啊")], [normalise(text)]) == [True]
    assert near([normalise("完全不同的一句话没有任何相似之处")], [normalise(text)]) == [False]


@given(st.integers(0, 2**32), st.integers(0, 60))
@settings(deadline=None)
def test_texts_left_out_by_hashes_are_near_none(seed: int, n: int) -> None:
    """And nothing waits for ever where nothing is left."""
    keys = related_texts(seed, n)
    may = may_be_near(keys)
    assert len(may) == n
    for i, key in enumerate(keys):
        others = keys[:i] + keys[i + 1 :]
        assert may[i] or not any(alike(key, other) for other in others)


def test_most_texts_that_are_near_none_are_left_out() -> None:
    rng = np.random.default_rng(0)
    keys = [" ".join(f"w{k}" for k in rng.integers(0, 4000, 20)) for _ in range(500)]
    keys += [f"{key} more" for key in keys[:5]]
    assert np.flatnonzero(may_be_near(keys)).tolist() == [*range(5), *range(500, 505)]
    assert not may_be_near([f"v{i} w{i}" for i in range(50)]).any()


def folded_slowly(text: str) -> str:
    """The definition of the normal form, character by character."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = ""
    for character in plain:
        if unicodedata.category(character)[0] in "PZC" or character in "$+<=>^`|~":
            folded += " "
        elif any(low <= ord(character) <= high for low, high in duplicates._ONE_WORD_A_CHARACTER):
            folded += f" {character} "
        else:
            folded += character
    return " ".join(folded.split()) or " ".join(plain.split())


@given(st.text(st.characters(codec="ascii")) | st.text(st.characters(codec="utf-8")))
def test_the_quick_way_of_ascii_folds_as_the_definition_does(text: str) -> None:
    assert normalise(text) == folded_slowly(text)
