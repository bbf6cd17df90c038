"""The share of traffic outside of the training data: injected shares are found, and rows named."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from word_encoder import WordEncoder

from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message, Text
from tunesmith_data.coverage import (
    Coverage,
    is_prompt_file,
    measure_coverage,
    read_prompts,
)
from tunesmith_data.coverage.share import (
    Reference,
    compute_p_values,
    estimate_share,
    find_distance_threshold,
)
from tunesmith_data.coverage.vectors import COLUMNS, Vectorizer
from tunesmith_data.near_duplicates.features import Floats
from tunesmith_data.splits import PromptTexts, prompt_text

Rng = np.random.Generator
SYLLABLES = [a + b for a in "bdfgklmnprstv" for b in ("a", "e", "i", "o", "u", "ar", "en", "ol")]
OTHER_SYLLABLES = [a + b for a in ("sch", "qu", "x", "z", "ch", "wh") for b in ("y", "ea", "ao")]


def vocabulary(syllables: list[str], words: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(syllables, rng.integers(2, 4))) for _ in range(words)]


INSIDE = vocabulary(SYLLABLES, 400, 0)
OUTSIDE = vocabulary(OTHER_SYLLABLES, 400, 1)


def write(rng: Rng, rows: int, words: list[str]) -> list[str]:
    """Return rows of one source: the first words are ten times as frequent as the last ones."""
    frequency = 1 / np.arange(40, 40 + 10 * len(words), 10)
    chosen = iter(rng.choice(words, 11 * rows, p=frequency / frequency.sum()).tolist())
    return [" ".join(islice(chosen, length)) for length in rng.integers(5, 12, rows).tolist()]


def draw(seed: int, share: float, rows: int = 300, train: int = 300) -> Coverage:
    """Measure a draw of training and production rows, with this share of rows injected."""
    rng = np.random.default_rng(seed)
    injected = round(share * rows)
    production = write(rng, rows - injected, INSIDE) + write(rng, injected, OUTSIDE)
    return measure_coverage(write(rng, train, INSIDE), production)


def count_covered(draws: int, share: float, rows: int) -> tuple[int, float, float]:
    """Return how many intervals cover the share, the mean estimate, and the mean share rejected."""
    found = [draw(seed, share, rows, train=rows) for seed in range(draws)]
    covered = sum(one.share.low <= share <= one.share.high for one in found)
    estimate = float(np.mean([one.share.estimate for one in found]))
    return covered, estimate, float(np.mean([one.outside / one.rows for one in found]))


def test_the_interval_covers_the_injected_share() -> None:
    covered, estimate, _ = count_covered(20, 0.12, 200)
    assert covered >= 18
    assert abs(estimate - 0.12) < 0.03


@pytest.mark.long
@pytest.mark.parametrize("share", [0.0, 0.12])
def test_the_interval_covers_the_injected_share_in_200_draws(share: float) -> None:
    covered, estimate, rejected = count_covered(200, share, 600)
    assert covered >= 190
    assert abs(estimate - share) < 0.02  # an estimate cannot be below 0
    assert abs(rejected - (share + (1 - share) * 0.05)) < 0.01


def test_without_injected_rows_few_rows_are_rejected() -> None:
    _, estimate, rejected = count_covered(5, 0.0, 300)
    assert rejected < 0.08 and estimate < 0.06


def test_duplicated_training_rows_do_not_look_like_coverage() -> None:
    rng = np.random.default_rng(3)
    train = write(rng, 200, INSIDE)
    production = write(rng, 300, INSIDE)
    doubled = [*train, *(f"{row}!" for row in train)]
    one, two = measure_coverage(train, production), measure_coverage(doubled, production)
    assert two.outside / 300 < 0.12  # all rows would be, if the copies were part of the reference
    assert abs(one.outside - two.outside) <= 6


def test_the_rows_to_label_are_outside_and_differ() -> None:
    rng = np.random.default_rng(5)
    one, two = "zchao xyqua whea schy", "quea whao zyxea chaoschea"
    injected = [f"{text} {number}" for text in (one, two) for number in range(20)]
    production = write(rng, 200, INSIDE) + injected
    found = measure_coverage(write(rng, 300, INSIDE), production)
    stands_for = {production[row.row][:5]: row.similar_rows for row in found.chosen}
    assert stands_for[one[:5]] >= 18 and stands_for[two[:5]] >= 18
    assert len(found.chosen) <= 20 and sum(r.similar_rows for r in found.chosen) == found.outside
    assert all(row.similarity < found.similarity_limit for row in found.chosen)
    assert all(0 < row.p_value <= 0.05 for row in found.chosen)


def test_rows_with_a_near_duplicate_in_training_are_never_outside() -> None:
    rng = np.random.default_rng(6)
    odd = ["schyxea quaozy wheachy xaoquea", "zyzea chaowhy xyschea quywhao"]
    train = write(rng, 100, INSIDE) + odd
    found = measure_coverage(train, [f"{row}." for row in odd] * 20)
    assert (found.near_duplicates, found.outside, found.share.estimate) == (40, 0, 0)


def test_a_prefix_of_all_rows_changes_little() -> None:
    rng = np.random.default_rng(7)
    train, production = write(rng, 200, INSIDE), write(rng, 180, INSIDE) + write(rng, 20, OUTSIDE)
    plain = measure_coverage(train, production)
    prefix = "You are a helpful assistant. Answer the question of the customer in one sentence: "
    for one, other in (("", prefix), (prefix, ""), (prefix, prefix)):
        found = measure_coverage([one + row for row in train], [other + r for r in production])
        assert plain.share.low < found.share.estimate < plain.share.high, (one, other)


def test_a_template_of_half_of_the_rows_does_not_cover_what_is_in_it() -> None:
    rng = np.random.default_rng(10)
    template = " ".join(write(rng, 12, vocabulary(SYLLABLES, 400, 2)))
    train = [*(f"{template} {row}" for row in write(rng, 100, INSIDE)), *write(rng, 100, INSIDE)]
    outside = [f"{template} {row}" for row in write(rng, 20, OUTSIDE)]
    found = measure_coverage(train, write(rng, 80, INSIDE) + outside)
    assert found.outside >= 18 and found.share.low > 0.1


def test_training_rows_without_common_text_are_reported() -> None:
    rng = np.random.default_rng(8)
    alphabet = [chr(code) for code in range(0x4E00, 0x9000)]
    train = ["".join(rng.choice(alphabet, 30)) for _ in range(100)]
    assert measure_coverage(train, write(rng, 30, INSIDE)).is_blind
    assert not draw(1, 0.1, 50).is_blind


def test_too_few_rows_are_refused() -> None:
    rng = np.random.default_rng(9)
    rows = write(rng, 30, INSIDE)
    with pytest.raises(DataError, match="only 10 rows differ"):
        measure_coverage(rows[:10] * 9, rows)
    with pytest.raises(DataError, match="there are no rows to compare"):
        measure_coverage(rows, [])


def test_of_many_rows_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith_data.coverage.measure.MAX_QUERIES", 50)
    found = draw(2, 0.5, 400)
    assert (found.rows, found.compared_rows) == (400, 50)
    assert found.share.low < 0.5 < found.share.high


# ------------------------------------------------------------------------- the estimate


def reference_of(distances: Floats) -> Reference:
    return Reference(distances, np.arange(len(distances)))


def test_p_values_are_ranks() -> None:
    reference = np.arange(1, 100) / 100
    assert compute_p_values(np.array([0.0, 0.5, 0.995]), reference).tolist() == [1.0, 0.51, 0.01]
    limit = find_distance_threshold(reference, 0.05)
    assert compute_p_values(np.array([limit, limit + 1e-9]), reference).tolist() == [0.06, 0.05]


def test_the_estimate_is_unbiased_for_rows_that_are_far() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        distances = np.append(rng.random(400), np.full(100, 2.0))
        covered = np.append(rng.random(400) < 0.3, np.zeros(100, bool))
        found.append(estimate_share(distances, covered, reference_of(rng.random(500))))
    assert abs(np.mean([one.estimate for one in found]) - 0.2) < 0.01
    assert sum(one.low <= 0.2 <= one.high for one in found) >= 56


def test_pairs_of_equal_distances_widen_the_interval() -> None:
    distances, covered = np.linspace(0, 1, 200), np.zeros(200, bool)
    reference = np.repeat(np.random.default_rng(0).random(50), 2)
    alone = estimate_share(distances, covered, reference_of(reference))
    paired = estimate_share(distances, covered, Reference(reference, np.arange(100) // 2))
    assert alone.estimate == paired.estimate and paired.high > alone.high


def test_rows_that_all_are_outside_or_covered() -> None:
    reference = reference_of(np.linspace(0, 1, 50))
    everything = estimate_share(np.full(60, 2.0), np.zeros(60, bool), reference)
    assert everything.estimate == everything.high == 1 and everything.low > 0.9
    nothing = estimate_share(np.full(60, 2.0), np.ones(60, bool), reference)
    assert nothing.estimate == nothing.low == 0 and nothing.high < 0.1


# ------------------------------------------------------------------------- vectors


def test_vectors_have_the_cosine_of_their_grams() -> None:
    texts = ["abcdefgh", "abcdefgh abcdefgh", "stuvwxyz", "ab", "", "!?"]
    vectors = Vectorizer(texts, texts).vectors(texts)
    assert vectors.shape == (6, COLUMNS)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.allclose(lengths, [1, 1, 1, 1, 0, 1], atol=1e-6)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.6 and abs(cosines[0, 2]) < 0.1


def test_vectors_do_not_depend_on_blocks() -> None:
    texts = write(np.random.default_rng(0), 1_100, INSIDE)
    vectorizer = Vectorizer(texts, texts[:50])
    assert [len(block) for block in vectorizer.blocks(texts)] == [512, 512, 76]
    assert np.array_equal(vectorizer.vectors(texts)[600:605], vectorizer.vectors(texts[600:605]))


# ------------------------------------------------------------------------- prompts


def test_prompts_of_records() -> None:
    chat = Chat(
        source="s",
        messages=(Message("system", "be kind"), Message("user", "q"), Message("assistant", "a")),
    )
    records = [Text(source="s", text="t"), Completion(source="s", prompt="p", completion="c"), chat]
    texts = PromptTexts(records)
    assert list(texts) == ["t", "p", "q"] == [texts[i] for i in range(len(texts))]


ASK = {"role": "user", "content": "q"}
ROWS = {
    "prompt": {"prompt": "q", "label": "x", "id": 1},
    "prompt of messages": {"prompt": [ASK]},
    "with an answer": {"prompt": "q", "completion": "a"},
    "instruction": {"instruction": "q", "input": ""},
    "question": {"question": "q"},
    "text": {"text": "q"},
    "messages": {"messages": [ASK]},
    "answered": {"messages": [ASK, {"role": "assistant", "content": "a"}]},
    "conversations": {"conversations": [{"from": "human", "value": "q"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_need_no_answer(tmp_path: Path, name: str) -> None:
    path = tmp_path / "production.jsonl"
    path.write_text(json.dumps(ROWS[name]) + "\n\nbroken\n")
    found = read_prompts(path)
    assert [prompt_text(record) for record in found.train] == ["q"]
    assert found.train[0].source.endswith("production.jsonl:1")
    assert [row.where.rpartition(":")[2] for row in found.skipped] == ["3"]


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "production.txt"
    path.write_bytes(b"one\n\n two \n\xff\n")
    found = read_prompts(path)
    assert [prompt_text(record) for record in found.train] == ["one", "two"]
    assert [row.cause for row in found.skipped] == ["not UTF-8"]
    assert is_prompt_file("a/b.txt.gz") and not is_prompt_file("a.csv")


def test_instructions_have_their_input(tmp_path: Path) -> None:
    path = tmp_path / "production.jsonl"
    path.write_text('{"instruction": "sum", "input": "1 2"}\n')
    assert list(PromptTexts(read_prompts(path).train)) == ["sum\n\n1 2"]


def test_rows_without_a_prompt_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "production.jsonl"
    path.write_text('{"query": "q"}\n')
    with pytest.raises(DataError, match="has no prompt"):
        read_prompts(path)


def test_with_an_encoder_meanings_are_compared() -> None:
    """Rows in synonyms of the training words are covered, and only for the encoder."""
    rng = np.random.default_rng(3)
    others = dict(zip(OUTSIDE, INSIDE, strict=True))
    train, production = write(rng, 300, INSIDE), write(rng, 100, INSIDE)
    paraphrases = write(rng, 100, OUTSIDE)
    lexical = measure_coverage(train, [*production, *paraphrases])
    semantic = measure_coverage(train, [*production, *paraphrases], encoder=WordEncoder(**others))
    assert lexical.share.low > 0.3 and semantic.share.low < 0.05 and not semantic.is_blind
    foreign = measure_coverage(train, [*production, *paraphrases], encoder=WordEncoder())
    assert foreign.share.low > 0.3 and all(row.row >= 100 for row in foreign.chosen)
    assert len(foreign.chosen) == 20
