from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from peftport.core.errors import TaskRefused
from peftport.tasks import load_task

from .conftest import Rows, made_up_rows

Save = Callable[..., str]


def refusal(ref: str, **options: object) -> str:
    """The message load_task refuses with: one line, exit code 2."""
    with pytest.raises(TaskRefused) as refused:
        load_task(ref, **options)  # type: ignore[arg-type]
    message = str(refused.value)
    assert refused.value.exit_code == 2
    assert "\n" not in message and ";" in message and "expected" in message
    return message


@pytest.mark.parametrize("kind", ["words", "integers"])
def test_three_formats_are_one_task(rows: Rows, save: Save, kind: str) -> None:
    rows[3]["text"] = 'a "quoted", comma\nand line é好😀'
    rows[4]["text"] = "12"
    if kind == "integers":
        for row in rows:
            row["label"] = int(row["label"] == "positive")
    tasks = [load_task(save(rows, f"reviews.{suffix}")) for suffix in ("csv", "jsonl", "parquet")]
    assert len({task.digest for task in tasks}) == 1
    assert tasks[0].spec.labels == (("negative", "positive") if kind == "words" else ("0", "1"))
    assert tasks[0].spec.name == tasks[0].spec.domain == "reviews"
    assert sum(map(len, (tasks[0].train, tasks[0].valid, tasks[0].test))) == 200
    kept = {
        text: label
        for s in (tasks[1].train, tasks[1].valid, tasks[1].test)
        for text, label in zip(s.texts, s.labels, strict=True)
    }
    assert kept[rows[3]["text"]] == 1 and kept["12"] == 0


def test_the_order_of_rows_does_not_matter(rows: Rows, save: Save) -> None:
    assert load_task(save(rows)).digest == load_task(save(rows[::-1], "backwards.csv")).digest


def test_named_columns_and_groups(rows: Rows, save: Save) -> None:
    named = [{"review": row["text"], "stars": row["label"], "author": i // 4} for i, row in enumerate(rows)]
    task = load_task(save(named), text="review", label="stars", group="author")
    author = {row["review"]: row["author"] for row in named}
    homes = [{author[text] for text in split.texts} for split in (task.train, task.valid, task.test)]
    assert not (homes[0] & homes[1] or homes[0] & homes[2] or homes[1] & homes[2])


def test_an_own_split_is_honoured_and_still_checked(rows: Rows, save: Save) -> None:
    for i, row in enumerate(rows):
        row["split"] = ("train", "valid", "test")[i // 2 % 3]
    rows[0]["text"] = rows[4]["text"] + " again"  # train and test
    task = load_task(save(rows))
    assert set(task.test.texts) == {row["text"] for row in rows if row["split"] == "test"}
    assert rows[0]["text"] not in task.train.texts
    assert task.report.near_duplicates == 1


def test_integer_labels_are_in_order_of_number(save: Save) -> None:
    rows = made_up_rows(400)
    for i, row in enumerate(rows):
        row["label"] = (2, 10, -1)[i % 3]
    assert load_task(save(rows, "r.jsonl")).spec.labels == ("-1", "2", "10")


def test_declared_labels_give_the_order(rows: Rows, save: Save) -> None:
    task = load_task(save(rows), labels=("positive", "negative"))
    assert task.spec.labels == task.spec.words == ("positive", "negative")
    positive = {row["text"] for row in rows if row["label"] == "positive"}
    assert all(
        (text in positive) == (label == 0) for text, label in zip(task.train.texts, task.train.labels, strict=True)
    )


def test_default_and_own_wording(rows: Rows, save: Save) -> None:
    spec = load_task(save(rows)).spec
    assert spec.prompt_for("T {text}") == "Classify as negative or positive: T {text}"
    assert spec.descriptions == ("This text is negative.", "This text is positive.")
    assert spec.masked_prompt_for("T {mask}", "[MASK]") == "T {mask} This is [MASK]."
    own = load_task(save(rows), words=("bad", "good"), prompt="Good? {text}").spec
    assert own.words == own.masked_words == ("bad", "good") and own.labels == ("negative", "positive")
    assert own.descriptions[0] == "This text is bad." and own.prompt_for("x") == "Good? x"


def test_a_byte_order_mark_and_blank_last_lines_are_ignored(rows: Rows, save: Save) -> None:
    plain, marked = Path(save(rows)), Path(save(rows, "marked.csv"))
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes() + b"\r\n\n")
    assert load_task(str(plain)).digest == load_task(str(marked)).digest


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
class TestRefusedRows:
    def test_empty_text(self, rows: Rows, save: Save, suffix: str) -> None:
        rows[6]["text"] = "  "
        assert f"reviews.{suffix}, row 7: the text is empty" in refusal(save(rows, f"reviews.{suffix}"))

    def test_missing_text(self, rows: Rows, save: Save, suffix: str) -> None:
        rows[6]["text"] = None
        assert "row 7: the text is empty" in refusal(save(rows, f"reviews.{suffix}"))

    def test_missing_label(self, rows: Rows, save: Save, suffix: str) -> None:
        rows[6]["label"] = None
        assert "row 7: the label is missing" in refusal(save(rows, f"reviews.{suffix}"))

    def test_undeclared_label(self, rows: Rows, save: Save, suffix: str) -> None:
        rows[6]["label"] = "meh"
        message = refusal(save(rows, f"reviews.{suffix}"), labels=("negative", "positive"))
        assert "row 7: label 'meh', expected one of negative, positive" in message

    def test_missing_group(self, rows: Rows, save: Save, suffix: str) -> None:
        for i, row in enumerate(rows):
            row["author"] = None if i == 6 else f"a{i}"
        assert "row 7: the group is missing" in refusal(save(rows, f"reviews.{suffix}"), group="author")

    def test_unknown_split(self, rows: Rows, save: Save, suffix: str) -> None:
        for i, row in enumerate(rows):
            row["split"] = "holdout" if i == 6 else "train"
        assert "row 7: split 'holdout', expected train, valid or test" in refusal(save(rows, f"reviews.{suffix}"))

    def test_missing_columns(self, rows: Rows, save: Save, suffix: str) -> None:
        path = save([{"opinion": row["text"], "stars": 1} for row in rows], f"reviews.{suffix}")
        assert "no column 'text', expected one of those present (opinion, stars); name it with --text" in refusal(path)
        assert "no column 'label'" in refusal(path, text="opinion")
        assert "no column 'who'" in refusal(path, text="opinion", label="stars", group="who")

    def test_one_label(self, rows: Rows, save: Save, suffix: str) -> None:
        path = save([row | {"label": "good"} for row in rows], f"reviews.{suffix}")
        assert "1 different label ('good'), expected 2 to 100" in refusal(path)

    def test_a_label_column_that_is_none(self, rows: Rows, save: Save, suffix: str) -> None:
        path = save([row | {"label": f"l{i}"} for i, row in enumerate(rows)], f"reviews.{suffix}")
        assert "200 different labels ('l0', 'l1', 'l10', ...), expected 2 to 100" in refusal(path)

    def test_too_few_items(self, rows: Rows, save: Save, suffix: str) -> None:
        assert "reviews: 12 items, expected at least 30" in refusal(save(rows[:12], f"reviews.{suffix}"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_not_utf8(rows: Rows, save: Save, suffix: str) -> None:
    path = Path(save(rows, f"reviews.{suffix}"))
    data = path.read_bytes()
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + data[:100] + b"\xe9" + data[100:])
        assert f"byte {100 + len(mark)} (0xe9) is not UTF-8" in refusal(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"", "the file is empty"),
        ("r.csv", b"text,label\n", "no items"),
        ("r.csv", b"text,label\na,b,c\n", "cannot be read"),
        ("r.jsonl", b"\n", "the file is empty"),
        ("r.jsonl", b'{"text": "a", "label": 1}\n{"text"', "line 2: Expecting"),
        ("r.jsonl", b'["a", 1]\n', "line 1: JSON of type list, expected an object"),
        ("r.jsonl", b"[" * 100_000, "line 1: "),
        ("r.jsonl", b'{"text": 3, "label": 1}\n', "row 1: the text is of type int, expected text"),
        (
            "r.jsonl",
            b'{"text": "a", "label": {"b": 1}}\n',
            "row 1: label {'b': 1} of type dict, expected an integer or a string",
        ),
        ("r.jsonl", b'{"text": "a", "label": NaN}\n', "row 1: the label is missing"),
        ("r.jsonl", b'{"text": "a \\ud800", "label": 1}\n', "row 1: character 3 of the text is half a surrogate pair"),
        ("r.parquet", b"PAR1 not really", "cannot be read"),
        (
            "r.xlsx",
            b"",
            "suffix '.xlsx', expected one of .csv, .tsv, .json, .jsonl, .parquet; open it and save it as CSV",
        ),
        ("r.txt", b"", "suffix '.txt'"),
    ],
)
def test_refused_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refusal(str(path))


@pytest.mark.parametrize(
    "name", ["absent.csv", "sub/absent.parquet", "org/absent.txt", "./absent", "/absent", "~nobody-has-this-home/x"]
)
def test_a_file_that_is_not_there(name: str) -> None:
    assert f"{Path(name)}: no such file" in refusal(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": ("one",)}, "words: 1 given, expected 2, one for each label"),
        ({"words": ("same", "same")}, "expected all different"),
        ({"descriptions": ("a", "b", "c")}, "descriptions: 3 given, expected 2"),
        ({"prompt": "no place for it"}, "expected {text} in it"),
    ],
)
def test_wording_that_does_not_fit(rows: Rows, save: Save, options: dict[str, object], message: str) -> None:
    assert message in refusal(save(rows), **options)


def test_mixed_label_types_of_jsonl_are_names(rows: Rows, save: Save) -> None:
    for i, row in enumerate(rows):
        row["label"] = (True, "true", False)[i % 3]
    path = Path(save(rows, "r.jsonl"))
    assert json.loads(path.read_text().splitlines()[0])["label"] is True
    assert load_task(str(path)).spec.labels == ("false", "true")
