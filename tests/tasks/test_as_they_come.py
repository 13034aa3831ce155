"""Files as they come: other formats, delimiters, packings, names of columns and splits; what is refused, and why."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused
from peftport.tasks import load_task
from peftport.tasks.columns import Names
from peftport.tasks.guess import LABELS, PAIRS, SURE_LABELS, SURE_TEXTS, TEXTS, resolved
from peftport.tasks.json_tables import read_json

from .conftest import Rows, made_up_rows
from .test_files import refusal

ROWS = made_up_rows(200)
ROWS[3]["text"] = 'a "quoted", comma; semicolon | bar\tand tab é好😀'
ROWS[4]["text"] = "two\nlines"


def delimited(rows: Rows, delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def written(rows: Rows) -> dict[str, bytes]:
    """The same rows in every format, by file name."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    parquet = io.BytesIO()
    polars.DataFrame(rows).write_parquet(parquet)
    return {
        "comma.csv": delimited(rows, ","),
        "semicolon.csv": delimited(rows, ";"),
        "tab.csv": delimited(rows, "\t"),
        "bar.csv": delimited(rows, "|"),
        "tab.tsv": delimited(rows, "\t"),
        "comma.tsv": delimited(rows, ","),
        "marked.tsv": b"\xef\xbb\xbf" + delimited(rows, "\t"),
        "lines.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "lines.json": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "list.json": json.dumps(rows, indent=1).encode(),
        "one_list.json": json.dumps({"version": 1, "data": rows}).encode(),
        "columns.json": json.dumps(columns).encode(),
        "pandas.json": json.dumps({k: {str(i): v for i, v in enumerate(own)} for k, own in columns.items()}).encode(),
        "table.parquet": parquet.getvalue(),
    }


WRITTEN = written(ROWS)
DIGEST = "ce28bd17824d03234ddd60db45c7966f8c519ee6151d0b165d60dd4f45b3e828"


def packed(data: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.compress(data, mtime=0)
    return pyarrow.compress(data, codec="zstd", asbytes=True) if packing == ".zst" else data


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_every_format_is_one_task(tmp_path: Path, name: str, packing: str) -> None:
    """The digest is the one that CSV, JSONL and Parquet had before there were others."""
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(packed(WRITTEN[name], packing))
    task = load_task(str(path))
    assert task.digest == DIGEST
    assert task.spec.name == name.partition(".")[0]
    said = {"semicolon.csv": "a semicolon", "tab.csv": "a tab", "bar.csv": "a vertical bar", "comma.tsv": "a comma"}
    delimiter = (f"cells separated by {said[name]}",) if name in said else ()
    json_notes = {"one_list.json": ("items from the list 'data'",), "lines.json": ("one JSON object a line",)}
    columns = ("an object of columns",) if name in ("columns.json", "pandas.json") else ()
    notes = (*delimiter, *json_notes.get(name, ()), *columns)
    assert task.remarks == tuple(f"{task.spec.name}: guessed {note}" for note in notes)


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.sampled_from("ab")), min_size=1
    ),
    st.sampled_from(",;\t|"),
)
@settings(max_examples=100, deadline=None)
def test_any_texts_survive_any_delimiter(tmp_path_factory: pytest.TempPathFactory, rows: list, delimiter: str) -> None:  # type: ignore[type-arg]
    """As the csv module writes them, whatever they hold."""
    from peftport.tasks.delimited import read_delimited

    made = [{"text": f"x{text}", "label": label} for text, label in rows]
    table, _ = read_delimited(Path("t.csv"), delimited(made, delimiter).decode(), ",")
    assert table == {name: [row[name] for row in made] for name in ("text", "label")}


def test_quotes_in_a_tsv_that_quotes_nothing(tmp_path: Path) -> None:
    """A quote that opens a text and one that closes a later one do not swallow what lies between."""
    rows = made_up_rows(100)
    rows[5]["text"], rows[9]["text"] = f'"Well {rows[5]["text"]}', f'{rows[9]["text"]} she said"'
    rows[11]["text"] = f'"All" {rows[11]["text"]}'
    path = tmp_path / "r.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows))
    task = load_task(str(path))
    assert sorted((*task.train.texts, *task.valid.texts, *task.test.texts)) == sorted(row["text"] for row in rows)


@pytest.mark.parametrize("text", [*SURE_TEXTS, *TEXTS])
@pytest.mark.parametrize("label", [*SURE_LABELS, *LABELS])
def test_columns_of_common_names_are_found(text: str, label: str) -> None:
    for spelt in (str, str.title, str.upper):
        columns = ("id", spelt(label), spelt(text), "split")
        names, notes = resolved("here", columns, Names())
        assert (names.text, names.label, names.fields) == ((spelt(text),), spelt(label), ("text",))
        assert (f"texts from column {spelt(text)} (--text)" in notes) == (spelt(text) not in SURE_TEXTS)
        assert (f"labels from column {spelt(label)} (--label)" in notes) == (spelt(label) not in SURE_LABELS)


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_of_common_names_are_two_fields(pair: tuple[str, str]) -> None:
    names, notes = resolved("here", ("idx", *pair[::-1], "label"), Names())
    assert names.text == names.fields == pair
    assert notes == (f"texts from columns {pair[0]} and {pair[1]} (--text)",)


@pytest.mark.parametrize(
    ("columns", "named", "message"),
    [
        (("review", "comment", "label"), {}, r"several columns may hold the texts \(review; comment\), .*--text"),
        (("premise", "hypothesis", "review", "label"), {}, r".*\(premise,hypothesis; review\)"),
        (("text", "class", "category"), {}, r"several columns may hold the labels \(class; category\), .*--label"),
        (("Text", "TEXT", "label"), {}, r".*\(Text; TEXT\)"),
    ],
)
def test_a_guess_that_is_not_safe_is_refused(columns: tuple[str, ...], named: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskRefused, match=f"^here: {message}"):
        resolved("here", columns, Names(**named))


@pytest.mark.parametrize(
    ("columns", "named", "expected"),
    [
        (("text", "review", "label", "class"), {}, (("text",), "label")),
        (("sentence", "premise", "hypothesis", "label"), {}, (("sentence",), "label")),
        (("review", "comment", "label"), {"label": "comment"}, (("review",), "comment")),
        (("review", "comment", "class"), {"text": ("comment",)}, (("comment",), "class")),
        (("text", "class", "category"), {"group": "category"}, (("text",), "class")),
        (("premise", "hypothesis"), {}, (("premise", "hypothesis"), "label")),
        (("a", "b"), {}, (("text",), "label")),
    ],
)
def test_sure_and_named_columns_settle_it(columns: tuple[str, ...], named: dict[str, Any], expected: object) -> None:
    names, _ = resolved("here", columns, Names(**named))
    assert (names.text, names.label) == expected


def save_split(folder: Path, data: Callable[[Rows], bytes], *names: str) -> Rows:
    folder.mkdir()
    rows = made_up_rows(90 * len(names))
    for i, name in enumerate(names):
        (folder / name).write_bytes(data(rows[90 * i : 90 * (i + 1)]))
    return rows


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (lambda rows: delimited(rows, ";"), ("train.csv", "test.csv")),
        (lambda rows: delimited(rows, ";"), ("train.csv", "dev.csv", "test.csv")),
        (lambda rows: gzip.compress(delimited(rows, ";"), mtime=0), ("train.csv.gz", "validation.csv.gz")),
        (lambda rows: json.dumps({"data": rows}).encode(), ("train.json", "valid.json", "test.json")),
        (lambda rows: packed(delimited(rows, "\t"), ".zst"), ("train.tsv.zst", "test.tsv.zst")),
    ],
)
def test_a_folder_of_files_named_by_split(
    tmp_path: Path, data: Callable[[Rows], bytes], names: tuple[str, ...]
) -> None:
    rows = save_split(tmp_path / "mine", data, *names)
    task = load_task(str(tmp_path / "mine"))
    assert set(task.test.texts) == {row["text"] for row in rows[-90:]}
    assert task.spec.name == "mine" and bool(task.remarks) == ("tsv" not in names[0])
    if len(names) == 3:
        assert set(task.valid.texts) == {row["text"] for row in rows[90:180]}


@pytest.mark.parametrize(("suffix", "delimiter"), [("tsv", "\t"), ("csv.gz", ",")])
def test_a_folder_that_datasets_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, delimiter: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    pack = gzip.compress if suffix.endswith("gz") else bytes
    save_split(tmp_path / "mine", lambda rows: pack(delimited(rows, delimiter)), f"train.{suffix}", f"test.{suffix}")
    assert len(load_task(str(tmp_path / "mine")).test) == 90


def test_two_files_of_one_split(tmp_path: Path) -> None:
    save_split(tmp_path / "mine", lambda rows: delimited(rows, ";"), "train.csv", "dev.csv", "valid.csv")
    assert "dev.csv and valid.csv are both valid, expected one" in refusal(str(tmp_path / "mine"))


def workbook() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as book:
        book.writestr("[Content_Types].xml", "<Types/>")
        book.writestr("xl/workbook.xml", "<workbook/>")
    return made.getvalue()


def archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("reviews.csv", "text,label\n")
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", workbook(),
            "r.csv: an Excel file (.xlsx), expected the texts themselves; open it and save it as CSV"),
        ("r.xlsx", workbook(), "an Excel file (.xlsx)"),
        ("r.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel file (.xls)"),
        ("r.csv", archive(), "a zip archive, expected the texts themselves; unpack it"),
        ("r.zip", archive(), "a zip archive"),
        ("r.csv", b"\n <!DOCTYPE html><html>", "a web page (HTML)"),
        ("r.json", b"<html><body>404", "a web page (HTML)"),
        ("r.csv", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer, not the data"),
        ("r.csv.gz", gzip.compress(b"<html>", mtime=0), "a web page"),
        ("r.csv", gzip.compress(b"text,label\n", mtime=0),
            "packed with gzip, expected the texts themselves; add .gz to its name"),
        ("r.csv.gz", b"text,label\na,b\n", "cannot be read (Not a gzipped file"),
        ("r.csv.gz", gzip.compress(b"text,label\n" * 99, mtime=0)[:-9], "cannot be read ("),
        ("r.csv.zst", b"text,label\na,b\n", "cannot be read ("),
        ("r.txt", b"some text\n",
            "suffix '.txt', expected one of .csv, .tsv, .json, .jsonl, .parquet; rename it to .csv"),
        ("r.txt.gz", gzip.compress(b"some text\n", mtime=0), "suffix '.txt'"),
        ("r.csv", b"PAR1abc", "Parquet, expected CSV; rename it to .parquet"),
        ("r.csv", "text,label\nschön,1\n".encode("cp1252"),
            "it looks like WINDOWS-1252; convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"),
        ("r.csv", "text,label\na,1\n".encode("utf-16"),
            "byte 0 (0xff) is not UTF-8, expected UTF-8 throughout; it looks like UTF-16"),
        ("r.csv", b"text,label\na,1\nb, c,2\n", "r.csv, line 3: cannot be read (3 cells, the header has 2)"),
        ("r.csv", b'text,label\n"a\nb",1\nb, c,2\n', "r.csv, line 4: cannot be read (3 cells"),
        ("r.csv", b"text;label\na;1\nb; c;2\n",
            "line 3: cannot be read (3 cells, the header has 2), expected as many; put texts that have a "
            "semicolon"),
        ("r.csv", b"text,label\na,1\nb\n", "r.csv, line 3: a row of 1, expected 2 cells as in the header"),
        ("r.csv", b"text;kind|label\na;b|1\n",
            "line 1: a semicolon and a vertical bar in the header line 'text;kind|label'"),
        ("r.csv", b"great film,positive\nbad film,negative\nfine,positive\n",
            "r.csv, line 1: no column 'text', and the line looks like an item (great film, positive), "
            "expected a header line"),
        ("r.tsv", b"great film\t1\nbad film\t0\n", "the line looks like an item"),
        ("r.json", b"", "the file is empty"),
        ("r.json", b"[]", "the list is empty"),
        ("r.json", b"{}", "JSON of type dict, expected a list of objects"),
        ("r.json", b"3", "JSON of type int, expected a list of objects"),
        ("r.json", b'[{"text": "a"}, 3]', "item 2: JSON of type int, expected an object"),
        ("r.json", b'[{"text": "a"', "Expecting ',' delimiter"),
        ("r.json", b'{"a": [{"x": 1}], "b": [{"x": 1}]}', "lists of objects under a, b, expected one"),
        ("r.json", b'{"text": ["a", "b"], "label": [1]}', "a JSON object with text, label, expected a list of objects"),
        ("r.json", b"[" * 100_000, "expected a list of objects"),
    ],
)  # fmt: skip
def test_the_real_reason_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refusal(str(path))


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers() | st.text(max_size=3), min_size=1), min_size=1))
def test_a_list_and_its_lines_are_one_table(rows: list[dict[str, Any]]) -> None:
    lines = "\n".join(map(json.dumps, rows))
    assert read_json(Path("r.json"), json.dumps(rows))[0] == read_json(Path("r.json"), lines)[0]


def test_labels_of_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    rows = [row | {"label": ("01", "1", "1.0")[i % 3]} for i, row in enumerate(made_up_rows(300))]
    (tmp_path / "r.csv").write_bytes(delimited(rows, ";"))
    assert set(load_task(str(tmp_path / "r.csv")).spec.labels) == {"01", "1", "1.0"}
