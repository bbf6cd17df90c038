"""Topics are groups of texts with common words, the largest first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from clean_rows import clean_rows

from tunesmith_plugins.commands.data.topics import TOPICS, find_topics

SPORT = [f"Who won the match of {a} against {b} last night?" for a in "ABCDE" for b in "FGHI"]


def test_a_small_topic_has_its_share_and_its_words() -> None:
    texts = [row.prompt for row in clean_rows()[:180]] + SPORT
    topics = find_topics(texts)
    assert len(topics) == TOPICS
    assert sum(topic.share for topic in topics) == pytest.approx(1)
    assert [topic.share for topic in topics] == sorted((t.share for t in topics), reverse=True)
    (sport,) = (topic for topic in topics if texts[topic.row] in SPORT)
    assert sport.share == 20 / 200
    assert {*sport.words} < {"who", "won", "match", "against", "last", "night"}


def test_the_same_texts_give_the_same_topics() -> None:
    texts = [row.prompt for row in clean_rows()[:100]]
    assert find_topics(texts) == find_topics(texts)


@pytest.mark.parametrize("texts", [[], ["one"], ["same"] * 19])
def test_few_texts_have_no_topics(texts: Sequence[str]) -> None:
    assert find_topics(texts) == []


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("text", ["", "the same"])
def test_equal_texts_are_one_topic(text: str) -> None:
    (topic,) = find_topics([text] * 40)
    assert (topic.words, topic.share) == ([], 1)
