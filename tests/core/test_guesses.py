"""What an unknown word may mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftport.core.guesses import OTHER_NAMES, guess

WORDS = tuple(OTHER_NAMES)


@given(st.sampled_from(WORDS), st.data())
def test_case_signs_and_other_names_do_not_matter(word: str, data: st.DataObject) -> None:
    said = data.draw(st.sampled_from([word, *OTHER_NAMES[word]]))
    said = data.draw(st.sampled_from([said.upper(), said.replace("_", "-"), f"--{said}", said.title()]))
    known = [f"--{each.replace('_', '-')}" for each in WORDS] if said.startswith("--") else WORDS
    found = guess(said, known)
    assert found is not None and found.strip("-").replace("-", "_") == word


def test_no_other_name_is_one_of_our_words_or_stands_for_two() -> None:
    others = [other for names in OTHER_NAMES.values() for other in names]
    assert len(others) == len(set(others)) and not set(others) & set(OTHER_NAMES)


@pytest.mark.parametrize(("said", "meant"), [("lorra", "lora"), ("zzzz", None), ("LoRA", "lora"), ("", None)])
def test_spelling(said: str, meant: str | None) -> None:
    assert guess(said, ("adapter", "compacter", "lora", "prefix")) == meant
