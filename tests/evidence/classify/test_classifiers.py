"""Classifiers of texts, and their rows, beside plain computations."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tunesmith.errors import UsageError
from tunesmith.records import Message
from tunesmith_evidence.classify.classifiers import (
    Classifier,
    LinearClassifier,
    NearestCentroid,
    NearestRowsClassifier,
    encode_labels,
    predict,
)
from tunesmith_evidence.classify.function_model import FunctionModel
from tunesmith_evidence.classify.text_classifier import TextRows
from tunesmith_evidence.classify.vectors import Vectorizer, WordVectorizer
from tunesmith_evidence.tasks.examples import Example

WORDS = {
    "card": ["card", "visa", "chip", "pin code", "plastic"],
    "transfer": ["transfer", "iban", "send money", "wire", "recipient"],
    "loan": ["loan", "credit", "mortgage", "interest rate", "borrow"],
}


def sample_texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    rng = random.Random(seed)
    labels = [rng.choice([*WORDS]) for _ in range(count)]
    return [f"please help me with my {rng.choice(WORDS[label])} today" for label in labels], labels


TEXTS, LABELS = sample_texts(60, 1)
VECTORIZER = Vectorizer(TEXTS)
ROWS = VECTORIZER.transform(TEXTS)
NEW_TEXTS, NEW_LABELS = sample_texts(40, 2)
NEW_ROWS = VECTORIZER.transform(NEW_TEXTS)


def classifiers() -> dict[str, Classifier]:
    return {
        "nearest": NearestRowsClassifier(ROWS, LABELS, 3),
        "centroid": NearestCentroid(ROWS, LABELS),
        "linear": LinearClassifier(ROWS, LABELS, 10.0),
    }


def test_rows_have_unit_length_and_common_words_count_nothing() -> None:
    lengths = np.sqrt(ROWS.multiply(ROWS).sum(axis=1))
    assert np.allclose(lengths, 1)
    with_boilerplate = Vectorizer([f"Classify this message now: {text}" for text in TEXTS])
    changed = with_boilerplate.transform([f"Classify this message now: {t}" for t in TEXTS])
    assert np.allclose((changed @ changed.T).toarray(), (ROWS @ ROWS.T).toarray(), atol=0.05)


def test_rows_of_words() -> None:
    vectorizer = WordVectorizer(["a b", "b c"])
    assert vectorizer.transform(["b b c", "", "x"]).sum(axis=1).tolist() == [[3.0], [0.0], [0.0]]
    assert WordVectorizer([""]).transform(["x"]).nnz == 0


def test_texts_without_terms() -> None:
    assert Vectorizer(["", " "]).transform(["x"]).nnz == 0
    assert VECTORIZER.transform(["", "αβγ"])[0].nnz == 0


@pytest.mark.parametrize("name", ["nearest", "centroid", "linear"])
def test_a_classifier_learns_and_does_not_look_at_other_rows(name: str) -> None:
    classifier = classifiers()[name]
    predicted = predict(classifier, NEW_ROWS)
    assert predicted == NEW_LABELS
    assert [predict(classifier, row)[0] for row in NEW_ROWS] == predicted
    unknown = VECTORIZER.transform(["αβγ"])
    assert predict(classifier, unknown) == [Counter(LABELS).most_common(1)[0][0]]


def test_nearest_rows_are_those_of_a_plain_loop() -> None:
    similarities = (NEW_ROWS @ ROWS.T).toarray()
    scores = NearestRowsClassifier(ROWS, LABELS, 5).scores(NEW_ROWS)
    labels = NearestRowsClassifier(ROWS, LABELS, 5).labels
    for row, values in enumerate(similarities):
        best = sorted(range(len(LABELS)), key=lambda i: (-values[i], i))[:5]
        for column, label in enumerate(labels):
            expected = math.fsum(values[i] for i in best if LABELS[i] == label)
            assert scores[row, column] == pytest.approx(expected, abs=1e-12)


def test_the_linear_classifier_is_that_of_scikit_learn() -> None:
    for labels in (LABELS, ["yes" if label == "card" else "no" for label in LABELS]):
        model = LogisticRegression(C=10.0, max_iter=300, tol=1e-3).fit(ROWS, labels)
        mine = LinearClassifier(ROWS, labels, 10.0)
        probabilities = np.exp(mine.scores(NEW_ROWS))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        order = encode_labels(list(model.classes_), mine.labels)
        assert np.allclose(probabilities[:, order], model.predict_proba(NEW_ROWS), atol=2e-3), (
            labels
        )


def test_one_label_is_the_answer_to_everything() -> None:
    assert predict(LinearClassifier(ROWS, ["same"] * 60, 1.0), NEW_ROWS[:2]) == ["same", "same"]


def test_a_classifier_as_a_text_model() -> None:
    rows = TextRows([Example(t, f" {a}", t) for t, a in zip(TEXTS, LABELS, strict=True)])
    name, model = rows.learn_best({"centroid": NearestCentroid})
    assert name == "centroid"
    done: list[int] = []
    prompts = [(Message("user", text),) for text in NEW_TEXTS[:3]]
    generations = model.generate(prompts, 1, progress=done.append)
    assert [g.text for g in generations] == NEW_LABELS[:3]
    assert {g.finish_reason for g in generations} == {"stop"}
    assert done == [3]
    assert list(model.generate([], 1)) == []


def test_a_function_has_no_probabilities() -> None:
    with pytest.raises(UsageError, match="does not compute log-probabilities"):
        FunctionModel(lambda texts: texts).score(["?"], ["!"])
