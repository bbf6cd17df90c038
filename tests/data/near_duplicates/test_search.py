"""Near duplicates equal those of a plain comparison of all texts, in any order and script."""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter, defaultdict
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_data.near_duplicates import (
    DEFAULT_THRESHOLD,
    Threshold,
    cluster_texts,
    find_nearest,
    find_pairs,
    search,
)
from tunesmith_data.near_duplicates.compare import compare_pairs, jaccard
from tunesmith_data.near_duplicates.punctuation import blank_punctuation

VOCABULARY = [a + b for a in ("mar", "tel", "con", "sub", "vir") for b in ("ta", "dor", "ne", "i")]


def plain_sets(text: str) -> tuple[set[str], set[str]]:
    """The 5-grams and words of an ASCII text, as the documentation describes them."""
    words = plain_key(text).split()
    joined = "".join(words)
    grams = {joined[i : i + 5] for i in range(max(1, len(joined) - 4))} if joined else set()
    return grams, {"0" if re.search("[0-9]", word) else word for word in words}


def plain_key(text: str) -> str:
    return " ".join(re.findall("[a-z0-9]+|[^a-z0-9\\s]", blank_punctuation(text.lower())))


def plain_similarities(
    texts: list[str], sample: list[str] | None = None
) -> dict[tuple[int, int], tuple[float, float]]:
    """The similarities of all pairs, without the boilerplate of a sample, by default of all."""
    sets = [plain_sets(text) for text in texts]
    seen = {plain_key(text): plain_sets(text) for text in (texts if sample is None else sample)}
    seen.pop("", None)
    for kind, share in ((0, 0.2), (1, 0.8)):
        counts = Counter(number for pair in seen.values() for number in pair[kind])
        frequent = {n for n, count in counts.items() if count > max(10, share * len(seen))}
        for pair in sets:
            pair[kind].difference_update(frequent)
    pairs = {}
    for i, one in enumerate(texts):
        for k, other in enumerate(texts[:i]):
            if plain_key(one) == plain_key(other):
                pairs[k, i] = (1.0, 1.0) if plain_key(one) else (0.0, 0.0)
            else:
                shared = [len(a & b) for a, b in zip(sets[i], sets[k], strict=True)]
                union = [len(a | b) for a, b in zip(sets[i], sets[k], strict=True)]
                pairs[k, i] = (shared[0] / max(1, union[0]), shared[1] / max(1, union[1]))
    return pairs


def is_similar(pair: tuple[float, ...]) -> bool:
    return pair[0] >= 0.7 or (pair[0] >= 0.5 and pair[1] >= 0.75)


def plain_labels(texts: list[str]) -> list[int]:
    labels = list(range(len(texts)))
    for (one, other), pair in plain_similarities(texts).items():
        if is_similar(pair):
            first, second = sorted((labels[one], labels[other]))
            labels = [first if label == second else label for label in labels]
    return labels


def edited(rng: Random, text: str) -> str:
    words = text.split()
    place = rng.randrange(len(words))
    match rng.randrange(5):
        case 0:
            words[place] = rng.choice(VOCABULARY)
        case 1:
            words[place] = words[place].upper() + "!"
        case 2:
            words = words[place:] + words[:place]
        case 3:
            words[place] = words[place][1:] or "x"
        case _:
            words.append(str(rng.randrange(100)))
    return " ".join(words)


def random_texts(rng: Random, count: int) -> list[str]:
    texts = ["", "!", "ok", "OK.", "a1"]
    while len(texts) < count:
        if rng.random() < 0.5:
            texts.append(" ".join(rng.choices(VOCABULARY, k=rng.randrange(1, 14))))
        else:
            texts.append(edited(rng, rng.choice(texts[5:] or ["mar tel"])))
    rng.shuffle(texts)
    return texts


@pytest.fixture
def by_minhash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MinHash propose the pairs, however few texts there are."""
    monkeypatch.setattr(search, "MAX_EXACT_TEXTS", 0)


@pytest.mark.parametrize("seed", range(6))
def test_clusters_equal_a_plain_comparison(seed: int) -> None:
    texts = random_texts(Random(seed), 70)
    expected = plain_labels(texts)
    assert 5 < len(set(expected)) < 65
    assert cluster_texts(texts).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_pairs_have_exact_similarities_and_connect_each_cluster_once(seed: int) -> None:
    texts = random_texts(Random(seed), 60)
    expected = plain_similarities(texts)
    pairs = list(find_pairs(texts))
    assert len(pairs) == len(texts) - len(set(plain_labels(texts)))
    for pair in pairs:
        found = expected[pair.first, pair.second]
        assert is_similar(found)
        assert (pair.characters, pair.words) == pytest.approx(found)
        keys = plain_key(texts[pair.first]), plain_key(texts[pair.second])
        assert pair.identical == (keys[0] == keys[1])


def test_minhash_finds_nearly_all_pairs(by_minhash: None) -> None:
    found = expected = 0
    for seed in range(12):
        texts = random_texts(Random(seed), 70)
        labels, plain = cluster_texts(texts).tolist(), plain_labels(texts)
        for pair, similarity in plain_similarities(texts).items():
            together = labels[pair[0]] == labels[pair[1]]
            assert plain[pair[0]] == plain[pair[1]] or not together
            expected += is_similar(similarity)
            found += is_similar(similarity) and together
    assert found >= 0.99 * expected > 500


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_text_equals_a_plain_comparison(seed: int) -> None:
    texts = random_texts(Random(seed), 60)
    known, queries = texts[:40], texts[40:]
    similarities = plain_similarities(texts, sample=known)
    matches = find_nearest(known, queries)
    all_matches = find_nearest(known, queries, threshold=None)
    for query in range(len(queries)):
        scores = [(*similarities[row, 40 + query], -row) for row in range(40)]
        for match, expected in (
            (all_matches[query], max(scores)),
            (matches[query], max(filter(is_similar, scores), default=(0.0, 0.0, 0))),
        ):
            if expected[0] == 0:
                assert match is None
            else:
                assert match is not None
                assert (match.characters, match.words) == pytest.approx(expected[:2])
                assert match.known == -expected[2] or match.identical
    assert 3 < sum(match is not None for match in matches) < 20


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.randoms())
def test_any_texts_are_grouped_independently_of_their_order(texts: list[str], rng: Random) -> None:
    order = list(range(len(texts)))
    rng.shuffle(order)
    clusters = [defaultdict(set) for _ in range(2)]
    for row, label in enumerate(cluster_texts(texts).tolist()):
        clusters[0][label].add(row)
    for row, label in enumerate(cluster_texts([texts[i] for i in order]).tolist()):
        clusters[1][label].add(order[row])
    assert sorted(map(sorted, clusters[0].values())) == sorted(map(sorted, clusters[1].values()))


def test_minhash_does_not_depend_on_the_order(by_minhash: None) -> None:
    rng = Random(3)
    texts = random_texts(rng, 300)
    order = list(range(len(texts)))
    rng.shuffle(order)
    labels = cluster_texts(texts)
    shuffled = cluster_texts([texts[i] for i in order])
    same = labels[order][:, None] == labels[order][None, :]
    assert np.array_equal(same, shuffled[:, None] == shuffled[None, :])


@pytest.mark.parametrize(
    "one, other",
    [
        ("Straße nach Köln", "STRASSE NACH KÖLN!"),
        ("ﬁne ｆｕｌｌ ｗｉｄｔｈ", "fine full width"),
        ("e\u0301te\u0301", "été"),
        ("我们感谢您的来信", "我们感谢您的来信。"),
        ("🎉🎉", "🎉 🎉"),
        ("is 12+7 right?", "Is 12 + 7 right"),
        ("it’s a “top–up”", 'it\'s a "top-up"'),
        ("12 − 7", "12 - 7"),
        ("yes", "Yes."),
        ("a" * 300_000, "A" * 300_000),
    ],
)
def test_texts_that_only_differ_in_form_are_identical(one: str, other: str) -> None:
    (pair,) = find_pairs([one, "between", other])
    assert (pair.first, pair.second, pair.identical) == (0, 2, True)
    (match,) = find_nearest([one], [other])
    assert match is not None
    assert match.identical


@pytest.mark.parametrize(
    "one, other",
    [
        ("", ""),
        (" ", "\n"),
        ("yes", "no"),
        ("a", "b"),
        ("🎉", "🎈"),
        ("हिंदी में", "हद म"),
        ("12", "13"),
        ("What is 12 + 7?", "What is 12 - 7?"),
        ("C", "C++"),
        ("C#", "C++"),
        ("-1", "1"),
        ("!x", "x"),
        ("<5", ">5"),
        ("a == b", "a != b"),
        (":)", ":("),
        ("5!", "5?"),
        ("2⁵", "25"),
    ],
)
def test_different_or_empty_texts_do_not_match(one: str, other: str) -> None:
    assert list(find_pairs([one, other])) == []
    assert find_nearest([one], [other]) == [None]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_one_changed_character_is_near_in_any_script(form: str) -> None:
    for text in (
        "我们感谢您的来信并将尽快答复您关于损坏商品的问题请您耐心等待谢谢",
        "Спасибо за ваше письмо, мы ответим вам как можно скорее",
        "ขอบคุณสำหรับจดหมายของคุณ เราจะตอบกลับโดยเร็วที่สุด",
        "شكرا لرسالتك وسوف نرد عليك في أقرب وقت ممكن بخصوص المنتج",
    ):
        changed = text[:12] + "x" + text[13:]
        (match,) = find_nearest([text[::-1], text], [unicodedata.normalize(form, changed)])
        assert match is not None
        assert (match.known, match.identical) == (1, False)


def test_an_instruction_that_all_rows_share_makes_no_duplicates() -> None:
    rng = Random(4)
    rows = [" ".join(rng.choices(VOCABULARY, k=8)) for _ in range(40)]
    rows[20] = rows[3].replace(" ", ", ", 1)
    rows[21] = rows[4] + " indeed"
    alone = cluster_texts(rows)
    instruction = "Read the ticket of the customer carefully, and answer with the team for it: "
    assert cluster_texts([instruction + row for row in rows]).tolist() == alone.tolist()
    assert alone[[20, 21]].tolist() == [3, 4]


@pytest.mark.parametrize("families", [2, 40])
def test_rows_of_a_template(families: int) -> None:
    """A small family is one cluster; the rows of one that is half of all differ by their slots."""
    rng = Random(5)
    templates = [" ".join(rng.sample(VOCABULARY, 12)) for _ in range(families)]
    slots = [
        f"{a}{b}" for a in ("quartz", "pebble", "walnut", "copper") for b in "bdfghjklmpqrstvw"
    ]
    rows = [f"{templates[i % families]} {rng.choice(slots)}" for i in range(600)]
    clusters = len(set(cluster_texts(rows).tolist()))
    assert clusters == families if families == 40 else clusters > 20


@pytest.mark.parametrize("kind", ["prose", "templates"])
def test_five_thousand_rows_take_a_second(kind: str) -> None:
    rng = Random(8)
    words = [f"{a}{b}{c}" for a in VOCABULARY for b in "aeiou" for c in ("", "n", "st")]
    templates = [rng.choices(words, k=40) for _ in range(10)]
    rows = []
    for _ in range(5_000):
        row = rng.choices(words, k=40) if kind == "prose" else list(rng.choice(templates))
        for _ in range(3):
            row[rng.randrange(40)] = rng.choice(words)
        rows.append(" ".join(row))
    started = time.process_time()
    clusters = len(set(cluster_texts(rows).tolist()))
    assert time.process_time() - started < 12  # about 1 s on a quiet core
    assert clusters == (5_000 if kind == "prose" else 10)


@pytest.mark.parametrize("values", [(0.0, 0.5, 0.5), (1.5, 0.5, 0.5), (0.5, 0.5, 0.6)])
def test_a_threshold_out_of_range_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Threshold(*values)


def test_similarities_of_pairs_are_read_in_batches() -> None:
    rng = Random(9)
    texts = [" ".join(rng.choices(VOCABULARY, k=3_000)) for _ in range(40)]
    firsts = np.array([rng.randrange(40) for _ in range(60)])
    seconds = np.array([rng.randrange(40) for _ in range(60)])
    characters, words = compare_pairs(texts, firsts, list(texts), seconds, None)
    for i, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        one, other = plain_sets(texts[first]), plain_sets(texts[second])
        assert characters[i] == pytest.approx(
            len(one[0] & other[0]) / len(one[0] | other[0]), abs=1e-3
        )
        assert words[i] == len(one[1] & other[1]) / len(one[1] | other[1])
    assert jaccard(frozenset(), frozenset()) == 0
    assert str(DEFAULT_THRESHOLD).startswith("Jaccard similarity of character 5-grams")
