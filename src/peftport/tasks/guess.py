"""Which columns hold texts and labels, told by their names. A further kind of task adds its names and a guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from peftport.core.errors import TaskRefused
from peftport.tasks.columns import Names

# The first names of a table are taken in this order, whatever other columns there are. Of the others there may be one.
SURE_TEXTS = ("text", "sentence")
TEXTS = (
    "texts", "sentences", "review", "reviews", "review_text", "reviewtext", "content", "comment", "comment_text",
    "tweet", "message", "post", "body", "document", "utterance", "headline", "sms", "input_text",
)  # fmt: skip
SURE_LABELS = ("label",)
LABELS = (
    "labels", "class", "classes", "target", "targets", "sentiment", "category", "y", "topic", "intent", "emotion",
    "polarity", "gold_label", "classification",
)  # fmt: skip
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("question", "passage"), ("question", "context"), ("question1", "question2"), ("text_a", "text_b"),
    ("text1", "text2"), ("text_1", "text_2"), ("query", "passage"),
)  # fmt: skip
CONVERSATION = "messages"
# A prompt, a further part that it may have, and its answer.
ANSWERED = (
    ("prompt", "", "completion"), ("prompt", "", "response"), ("prompt", "", "answer"),
    ("instruction", "input", "output"), ("instruction", "input", "response"), ("question", "", "answer"),
    ("input", "", "output"), ("input", "", "ideal"), ("query", "", "response"), ("problem", "", "solution"),
)  # fmt: skip


@dataclass(frozen=True)
class Guess:
    """What a data set's columns are taken for: the kind of task, the columns of texts (one or more) and of targets."""

    kind: str
    text: tuple[str, ...]
    label: str


def guess(where: str, columns: Sequence[str], named: Names) -> Guess | None:
    """Guess the kind and the columns that are not named; None where the names tell nothing.

    Raises:
        TaskRefused: several columns could be meant; they are named, and the option that settles it.

    """
    guesses = (completion,) if named.kind == "completion" else GUESSES
    return next((guessed for each in guesses if (guessed := each(where, columns, named)) is not None), None)


def resolved(where: str, columns: Sequence[str], named: Names) -> tuple[Names, tuple[str, ...]]:
    """The names with those guessed that were not given, and a note on each guess; unguessable ones stay the defaults.

    Raises:
        TaskRefused: as `guess` does.

    """
    likely = guess(where, columns, named)
    if likely is not None and likely.kind == "completion":
        said = f"prompts from column{'s' if len(likely.text) > 1 else ''} {' and '.join(likely.text)} (--text)"
        answers = (
            f"answers from column {likely.label} (--label)" if likely.label not in likely.text else "their last turns"
        )
        guessed = named.text is None or named.label is None
        named = replace(named, text=likely.text, label=likely.label, kind=named.kind or "completion")
        return named, (f"{said}, {answers}",) if guessed else ()
    text = named.text or (likely.text if likely else _texts(where, _free(columns, named)) or SURE_TEXTS[:1])
    label = named.label or (likely.label if likely else one_of(where, columns, SURE_LABELS, LABELS, "label") or "label")
    notes = []
    if named.text is None and text not in tuple((name,) for name in SURE_TEXTS) and set(text) <= set(columns):
        notes.append(f"texts from column{'s' if len(text) > 1 else ''} {' and '.join(text)} (--text)")
    if named.label is None and label not in SURE_LABELS and label in columns:
        notes.append(f"labels from column {label} (--label)")
    return replace(named, text=text, label=label), tuple(notes)


def one_of(where: str, columns: Sequence[str], sure: Sequence[str], likely: Sequence[str], option: str) -> str | None:
    """The column of one of these names, in any case; None where there is none. Raises TaskRefused for several."""
    for name in sure:
        if name in columns:
            return name
    known = {*sure, *likely}
    matching = [column for column in columns if column.strip().casefold() in known]
    if len(matching) > 1:
        raise _several(where, matching, option)
    return matching[0] if matching else None


def classification(where: str, columns: Sequence[str], named: Names) -> Guess | None:
    """One text or a pair of texts, and a label."""
    text = named.text or _texts(where, _free(columns, named))
    free = [column for column in columns if column not in (*(text or ()), named.group)]
    label = named.label or one_of(where, free, SURE_LABELS, LABELS, "label")
    return Guess("classification", text, label) if text and label else None


def completion(where: str, columns: Sequence[str], named: Names) -> Guess | None:
    """Conversations, or a prompt (of one column, or of an instruction and its input) and the text that answers it."""
    if CONVERSATION in columns and named.text in (None, (CONVERSATION,)) and named.label in (None, CONVERSATION):
        return Guess("completion", (CONVERSATION,), CONVERSATION)
    for prompt, more, answer in ANSWERED:
        text = (prompt, more) if more in columns else (prompt,)
        if {prompt, answer} <= set(columns) and named.text in (None, text) and named.label in (None, answer):
            return Guess("completion", text, answer)
    if named.kind == "completion" and named.text and named.label is None and CONVERSATION in named.text:
        return Guess("completion", named.text, named.text[0])
    return None


def _free(columns: Sequence[str], named: Names) -> list[str]:
    """The columns that are not named for something else than texts."""
    return [column for column in columns if column not in (named.label, named.group)]


def _texts(where: str, columns: Sequence[str]) -> tuple[str, ...] | None:
    """The column of texts, or the two of a pair."""
    for name in SURE_TEXTS:
        if name in columns:
            return (name,)
    spelt = {column.strip().casefold(): column for column in columns}
    pairs = [(spelt[first], spelt[second]) for first, second in PAIRS if first in spelt and second in spelt]
    singles = [column for column in columns if column.strip().casefold() in {*SURE_TEXTS, *TEXTS}]
    candidates = [*map(",".join, pairs), *singles]
    if len(candidates) > 1:
        raise _several(where, candidates, "text")
    return pairs[0] if pairs else (singles[0],) if singles else None


def _several(where: str, candidates: Sequence[str], option: str) -> TaskRefused:
    what = "texts" if option == "text" else "labels"
    return TaskRefused(
        f"{where}: several columns may hold the {what} ({'; '.join(candidates)}), expected one that is meant; "
        f"name it with --{option}"
    )


# Tried in this order; the first that finds its columns decides.
GUESSES: tuple[Callable[[str, Sequence[str], Names], Guess | None], ...] = (classification, completion)
