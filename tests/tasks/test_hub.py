from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from peftport.core.errors import TaskRefused, UnknownName
from peftport.tasks import TASKS, load_task
from peftport.tasks.prepared import built_in_task

from .conftest import made_up_rows

Hub = dict[str, datasets.DatasetDict | Exception]

CLASSES = datasets.Features(
    {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
)


def made_up(n: int, seed: int, labels: Callable[[int], Any] = lambda i: i % 2, **features: Any) -> datasets.Dataset:
    texts = [row["text"] for row in made_up_rows(n, seed)]
    return datasets.Dataset.from_dict({"sentence": texts, "label": [labels(i) for i in range(n)]}, **features)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that holds what a test puts in it; what it was asked for is checked to be a plain request."""
    held: Hub = {}

    def load_dataset(path: str, name: str | None = None, *, revision: str | None = None) -> datasets.DatasetDict:
        found = held["@".join(filter(None, (":".join(filter(None, (path, name))), revision)))]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return held


def test_sst2_takes_validation_as_its_test(hub: Hub) -> None:
    hub["stanfordnlp/sst2"] = datasets.DatasetDict(
        train=made_up(300, 1, features=CLASSES),
        validation=made_up(80, 2, features=CLASSES),
        test=made_up(50, 3, lambda i: -1, features=CLASSES),
    )
    task = load_task("sst2")
    assert task.digest == built_in_task(TASKS["sst2"]).digest
    assert len(task.test) == 80 and len(task.train) + len(task.valid) == 300
    assert 20 <= len(task.valid) <= 65
    assert task.spec.labels == ("negative", "positive") and task.spec.domain == "movie snippets"
    assert task.report.unlabelled == 0


def test_own_splits_are_used_and_checked(hub: Hub) -> None:
    train, test = made_up(300, 1, features=CLASSES), made_up(90, 2, features=CLASSES)
    leaked = datasets.concatenate_datasets([train, test.select([0])])
    hub["org/reviews"] = datasets.DatasetDict(train=leaked, validation=made_up(60, 3, features=CLASSES), test=test)
    task = load_task("org/reviews")
    assert (len(task.train), len(task.valid), len(task.test)) == (300, 60, 90)
    assert task.report.exact_duplicates == 1
    assert task.spec.name == "org/reviews" and task.spec.labels == ("negative", "positive")


def test_a_single_split_is_split_by_hash(hub: Hub) -> None:
    for name in ("train", "everything"):
        hub["org/reviews"] = datasets.DatasetDict({name: made_up(400, 1)})
        task = load_task("org/reviews")
        assert abs(len(task.train) - 260) < 40 and task.spec.labels == ("0", "1")


def test_a_test_without_a_label_column_is_none(hub: Hub) -> None:
    train, valid = made_up(300, 1, features=CLASSES), made_up(90, 2, features=CLASSES)
    test = made_up(50, 3).remove_columns("label")
    hub["org/reviews"] = datasets.DatasetDict(test=test, train=train, validation=valid)
    task = load_task("org/reviews")
    assert len(task.test) == 90 and task.spec.labels == ("negative", "positive")


def test_a_column_that_one_split_lacks(hub: Hub) -> None:
    test = made_up(90, 2).rename_column("sentence", "body")
    hub["org/reviews"] = datasets.DatasetDict(train=made_up(300, 1), test=test)
    with pytest.raises(TaskRefused, match=r"org/reviews \[test\]: no column 'sentence', .*\(body, label\)"):
        load_task("org/reviews")


def test_configuration_and_revision(hub: Hub) -> None:
    hub["org/reviews:small@v1.0"] = datasets.DatasetDict(train=made_up(400, 1))
    assert load_task("org/reviews:small@v1.0").spec.name == "org/reviews:small@v1.0"


def test_named_columns_and_declared_labels(hub: Hub) -> None:
    data = made_up(400, 1, features=CLASSES).rename_columns({"sentence": "opinion", "label": "mood"})
    hub["org/reviews"] = datasets.DatasetDict(train=data.add_column("author", [f"a{i // 4}" for i in range(400)]))
    options: dict[str, Any] = {"text": "opinion", "label": "mood", "group": "author"}
    assert load_task("org/reviews", **options, labels=("positive", "negative")).spec.labels == ("positive", "negative")
    with pytest.raises(TaskRefused, match=r"no column 'text', expected one of those present \(opinion, mood, author\)"):
        load_task("org/reviews")


def test_rows_without_label_or_text_are_dropped_and_counted(hub: Hub) -> None:
    data = made_up(400, 1, lambda i: -1 if i < 5 else i % 2, features=CLASSES)
    data = data.map(lambda row, i: {"sentence": "  "} if i in (10, 11) else row, with_indices=True)
    hub["org/reviews"] = datasets.DatasetDict(train=data)
    report = load_task("org/reviews").report
    assert (report.unlabelled, report.empty_texts) == (5, 2)


def test_minus_one_is_a_label_where_there_are_no_classes(hub: Hub) -> None:
    hub["org/reviews"] = datasets.DatasetDict(train=made_up(400, 1, lambda i: (-1, 1)[i % 2]))
    task = load_task("org/reviews")
    assert task.spec.labels == ("-1", "1") and task.report.unlabelled == 0


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (ConnectionError("Couldn't reach 'org/reviews' on the Hub"), "go online, or set HF_HUB_OFFLINE=1"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'org/reviews' doesn't exist"), "check the id"),
        (ValueError("Config name is missing.\nPlease pick one"), "org/name:config"),
        (RuntimeError("Dataset scripts are no longer supported"), "or a local file"),
        (datasets.exceptions.DatasetGenerationError("An error occurred"), "or a local file"),
    ],
)
def test_a_hub_that_does_not_deliver(hub: Hub, failure: Exception, remedy: str) -> None:
    hub["org/reviews"] = failure
    with pytest.raises(TaskRefused) as refused:
        load_task("org/reviews")
    message = str(refused.value)
    assert message.startswith("org/reviews: cannot be read (") and remedy in message and "\n" not in message
    assert refused.value.exit_code == 2


def test_splits_of_no_known_name(hub: Hub) -> None:
    hub["org/reviews"] = datasets.DatasetDict(one=made_up(50, 1), two=made_up(50, 2))
    with pytest.raises(TaskRefused, match="splits one, two, expected train, validation or test"):
        load_task("org/reviews")


@pytest.mark.parametrize("ref", ["rotten_tomatos", "a b", "org/name/more", "org/reviews@", "", "x" * 5000])
def test_names_of_nothing(ref: str) -> None:
    with pytest.raises(UnknownName, match="unknown task") as unknown:
        load_task(ref)
    assert unknown.value.exit_code == 2
    assert "org/name" in str(unknown.value) and "rotten_tomatoes" in str(unknown.value)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_local_folder(tmp_path: Path, save: Callable[..., str], suffix: str) -> None:
    rows = made_up_rows(400)
    save(rows[:300], f"mine/train.{suffix}")
    save(rows[300:], f"mine/test.{suffix}")
    task = load_task(str(tmp_path / "mine"))
    assert len(task.test) == 100 and len(task.train) + len(task.valid) == 300
    assert task.spec.name == "mine" and task.spec.labels == ("negative", "positive")


def test_a_saved_folder(tmp_path: Path) -> None:
    data = datasets.DatasetDict(train=made_up(300, 1, features=CLASSES), test=made_up(90, 2, features=CLASSES))
    data.save_to_disk(str(tmp_path / "saved"))
    assert load_task(str(tmp_path / "saved")).spec.labels == ("negative", "positive")


@pytest.mark.usefixtures("own_cache")
def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TaskRefused, match="nothing: cannot be read"):
        load_task(str(tmp_path / "nothing"))
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('a script was run')")
    with pytest.raises(TaskRefused, match="script: cannot be read"):
        load_task(str(tmp_path / "script"))
