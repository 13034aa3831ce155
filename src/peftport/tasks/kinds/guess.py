"""Which kind of task a column of targets is of, where the user has not said it, and what to tell the user of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from peftport.core.errors import TaskRefused
from peftport.tasks.columns import is_empty
from peftport.tasks.kinds.classification import MAX_LABELS
from peftport.tasks.kinds.regression import as_number

# More different numbers with decimals than this are not taken for classes. Ratings from 0 to 10 by halves have 10.
FEW = 10
# Columns of a data set that tags each of its words.
TOKENS, TAGS = ("tokens", "words"), ("ner_tags", "pos_tags", "chunk_tags", "tags", "ner_labels")


class GuessedKind(NamedTuple):
    """A kind of task, and what to tell the user of the guess; empty where there was nothing to guess."""

    kind: str
    remark: str = ""


def guess_kind(where: str, targets: Sequence[object]) -> GuessedKind:
    """The kind of task that targets are of: lists of labels, numbers, or else classes.

    Whole numbers may be ratings or classes; they stay classes, and the remark says how to say otherwise.
    """
    present = [value for value in targets if not is_empty(value)]
    if any(isinstance(value, list | tuple) for value in present):
        return GuessedKind(
            "multi_label",
            f"{where}: the targets are lists, so this is read as multi_label: any number of labels for each text",
        )
    numbers = [as_number(value) for value in present]
    different = {number for number in numbers if number is not None}
    if not different or None in numbers:
        return GuessedKind("classification")
    decimals = {number for number in different if not number.is_integer()}
    typed = any(isinstance(value, float) and value == value and not value.is_integer() for value in present)
    if typed or len(decimals) > FEW or len(different) > MAX_LABELS:
        return GuessedKind(
            "regression",
            f"{where}: the targets are {len(different)} different numbers, so this is read as regression; "
            "--kind classification reads each of them as a class",
        )
    if len(different) < 3:
        return GuessedKind("classification")
    return GuessedKind(
        "classification",
        f"{where}: the targets are {len(different)} different numbers, each read as a class; --kind regression reads "
        "them as numbers",
    )


def refuse_token_tags(where: str, texts: Sequence[Sequence[object]], targets: Sequence[object]) -> None:
    """Refuse a tag for each token: ``texts`` (a column each) or targets that are lists of one length, row by row.

    Raises:
        TaskRefused: as said.

    """
    rows = [(text, tags) for text, tags in zip(texts[0], targets, strict=True) if isinstance(text, list)]
    if rows and all(isinstance(tags, list) and len(text) == len(tags) for text, tags in rows):
        raise tags_refused(where)


def refuse_tag_columns(where: str, columns: Sequence[str]) -> None:
    """Refuse a table that has columns of tokens and of their tags, before others are looked for in it.

    Raises:
        TaskRefused: as said.

    """
    if set(TOKENS) & set(columns) and set(TAGS) & set(columns):
        raise tags_refused(f"{where} ({', '.join(columns)})")


def tags_refused(where: str) -> TaskRefused:
    """The refusal of token classification, with what to use instead."""
    return TaskRefused(
        f"{where}: token classification (a tag for each token), expected one target for each text; train and test it "
        "with transformers' AutoModelForTokenClassification and PEFT, or give a text and what is right for it in each "
        "row, such as --kind multi_label with the tags that occur"
    )
