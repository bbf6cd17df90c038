"""Splits never leak: a prompt that is held out is not trained on, nor one that nearly equals it."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import completions, request_for, split_prompts

from tunesmith.contracts import Split
from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message, Preference, Text
from tunesmith_data.near_duplicates import find_nearest, search
from tunesmith_data.splits import clusters as clusters_module
from tunesmith_data.splits import normalize_text, prompt_text, split_records
from tunesmith_data.splits.assignments import PARTS, Assignments
from tunesmith_data.splits.choose import choose_clusters
from tunesmith_data.splits.clusters import find_clusters
from tunesmith_data.splits.folds import MAX_FOLD_ROWS
from tunesmith_data.splits.rows import RowTable
from tunesmith_data.splits.sizes import count_validation_rows

quick = settings(max_examples=80, deadline=None)
texts = st.lists(st.text(alphabet="aAbß é\n", max_size=4), min_size=2, max_size=40)
WORDS = [f"word{i}" for i in range(2_000)]


def sentence(rng: Random, words: int = 60) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def try_split(
    keys: list[str], test_size: float | int, seed: int, groups: list[str | None]
) -> Split | None:
    """The split, or None where everything is tied together."""
    try:
        same = ["x"] * len(keys)  # rows with equal prompts are equal
        return split_prompts(keys, test_size=test_size, seed=seed, groups=groups, labels=same)
    except DataError as error:
        assert "all" in str(error)
        return None


# --- what a split promises ------------------------------------------------------------------


@given(texts, st.floats(0.01, 0.99), st.integers(0, 99), st.data())
@quick
def test_partition_and_ties_hold(
    keys: list[str], test_size: float, seed: int, data: st.DataObject
) -> None:
    letters = st.sampled_from([None, "p", "q", "r", "s"])
    groups = data.draw(st.lists(letters, min_size=len(keys), max_size=len(keys)))
    result = try_split(keys, test_size, seed, groups)
    if result is None:
        return
    assert sorted([*result.train, *result.test]) == list(range(len(keys)))
    assert result.train and result.test
    assert list(result.train) == sorted(result.train)
    assert list(result.test) == sorted(result.test)
    for kind in ([normalize_text(k) for k in keys], groups):
        inside = {kind[i] for i in result.train} & {kind[i] for i in result.test}
        assert inside <= {None, ""}  # rows without a prompt are distinguished by their answers


@given(texts, st.integers(0, 99), st.randoms(use_true_random=False))
@quick
def test_the_order_of_rows_does_not_matter(keys: list[str], seed: int, rng: Random) -> None:
    groups: list[str | None] = [None if len(k) < 3 else k[:1] for k in keys]
    keys = [key if key.strip() else "nothing" for key in keys]
    order = list(range(len(keys)))
    rng.shuffle(order)

    def test(rows: list[int]) -> Counter[str] | None:
        mine = [keys[i] for i in rows]
        result = try_split(mine, 0.3, seed, [groups[i] for i in rows])
        return None if result is None else Counter(mine[i] for i in result.test)

    assert test(order) == test(list(range(len(keys))))


def spelled(rng: Random, text: str) -> str:
    """The same text with another form, a typing error, or a space more or less."""
    words = text.split()
    place = rng.randrange(len(words) - 1)
    match rng.randrange(5):
        case 0:
            words[place] = words[place].upper()
        case 1:
            words[place : place + 2] = [words[place] + words[place + 1]]
        case 2:
            words[place] = words[place][1:]
        case 3:
            words[place] = f"{words[place][:2]} {words[place][2:]}"
        case _:
            words.append("please!")
    return " ".join(words)


@pytest.mark.parametrize("exact_texts", [search.MAX_EXACT_TEXTS, 0])
def test_the_order_of_similar_rows_does_not_matter(
    exact_texts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows that are equal but for their form, any may be the first."""
    monkeypatch.setattr(search, "MAX_EXACT_TEXTS", exact_texts)
    rng = Random(2)
    letters = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("rn", "lt", "st")]
    texts = [" ".join(rng.choices(letters, k=rng.randint(3, 7))) for _ in range(250)]
    texts += [spelled(rng, rng.choice(texts)) for _ in range(350)]
    groups = [f"g{rng.randrange(40)}" if rng.random() < 0.1 else None for _ in texts]
    rows = completions(texts, groups, labels=[rng.choice("abc") for _ in texts])
    found = set()
    for seed in range(6):
        shuffled = rows if seed == 0 else Random(seed).sample(rows, len(rows))
        split = split_records(iter(shuffled), request_for(shuffled))
        parts = (split.train, split.validation, split.test)
        found.add(tuple(frozenset(shuffled[row].source for row in part) for part in parts))
    assert len(found) == 1


@pytest.mark.parametrize("count", [1, 7, 199])
def test_a_count_is_met_exactly(count: int) -> None:
    keys = [f"row {i}" for i in range(200)]
    labels = [str(i % 3) for i in range(200)]
    assert len(split_prompts(keys, test_size=count, seed=0).test) == count
    assert len(split_prompts(keys, test_size=count, seed=0, labels=labels).test) == count


def test_a_share_is_rounded_but_neither_side_is_empty() -> None:
    keys = [f"row {i}" for i in range(10)]
    for share, rows in ((0.01, 1), (0.2, 2), (0.26, 3), (0.99, 9)):
        assert len(split_prompts(keys, test_size=share, seed=0).test) == rows


def test_seeds_differ_and_repeat() -> None:
    keys = [f"row {i}" for i in range(100)]
    first = split_prompts(keys, test_size=0.3, seed=1)
    assert split_prompts(keys, test_size=0.3, seed=1) == first
    assert split_prompts(keys, test_size=0.3, seed=2) != first
    seen = Counter(
        i for seed in range(300) for i in split_prompts(keys, test_size=0.3, seed=seed).test
    )
    assert len(seen) == 100
    assert min(seen.values()) > 45 and max(seen.values()) < 135  # 90 expected, 5.7 sd each way


def test_adding_rows_moves_few_others() -> None:
    keys = [f"row {i}" for i in range(1_000)]
    before = set(split_prompts(keys, test_size=0.2, seed=3).test)
    more = [*keys, *(f"new {i}" for i in range(50))]
    after = set(split_prompts(more, test_size=0.2, seed=3).test)
    moved = before ^ {i for i in after if i < 1_000}
    assert len(moved) <= 20


def test_groups_reach_the_size_as_nearly_as_they_can() -> None:
    keys = [f"row {i}" for i in range(60)]
    threes: list[str | None] = [str(i // 3) for i in range(60)]
    assert len(split_prompts(keys, test_size=10, seed=0, groups=threes).test) == 9
    assert len(split_prompts(keys, test_size=11, seed=0, groups=threes).test) == 12
    halves: list[str | None] = [str(i // 30) for i in range(60)]
    assert len(split_prompts(keys, test_size=5, seed=0, groups=halves).test) == 30
    assert len(split_prompts(keys, test_size=55, seed=0, groups=halves).test) == 30


def test_a_chain_of_ties_stays_together() -> None:
    keys = ["a", "A ", "b", "c"] + [f"other {i}" for i in range(20)]
    groups = ["g", "h", "h", "g"] + [None] * 20
    for seed in range(30):
        test = set(split_prompts(keys, test_size=0.4, seed=seed, groups=groups).test)
        assert len(test & {0, 1, 2, 3}) in (0, 4)


@given(
    st.lists(st.integers(3, 40), min_size=1, max_size=6), st.floats(0.05, 0.95), st.integers(0, 9)
)
@quick
def test_labels_are_within_one_row_of_their_share(
    sizes: list[int], test_size: float, seed: int
) -> None:
    labels = [str(k) for k, size in enumerate(sizes) for _ in range(size)]
    keys = [f"row {i}" for i in range(len(labels))]
    test = split_prompts(keys, test_size=test_size, seed=seed, labels=labels).test
    share = len(test) / len(keys)
    found = Counter(labels[i] for i in test)
    for k, size in enumerate(sizes):
        assert abs(found[str(k)] - share * size) < 1 + 1e-9


def test_rare_labels_are_in_both_parts() -> None:
    labels = ["common"] * 96 + ["rare"] * 3 + ["single"]
    keys = [f"row {i}" for i in range(100)]
    for seed in range(20):
        result = split_prompts(keys, test_size=0.1, seed=seed, labels=labels)
        for side in (result.train, result.test):
            assert {"common", "rare"} <= {labels[i] for i in side}
        assert 99 in result.train  # the only row of its label


def test_answers_with_one_prompt_each_are_no_labels() -> None:
    """A list of questions that are asked again: a label of one cluster cannot be in two parts."""
    for count in (20, 50):
        prompts = [f"question {i % count} about thing {i % count * 7}" for i in range(160)]
        labels = [f"answer {i % count}" for i in range(160)]
        split = split_prompts(prompts, test_size=60, seed=0, labels=labels)
        assert 52 <= len(split.test) <= 60 and not split.findings


def test_a_template_of_few_rows_ties_nothing() -> None:
    prompts = [f"What is the capital of the old kingdom of {name}?" for name in ("Oz", "Ur", "Id")]
    split = split_prompts(prompts, test_size=1, seed=0, near_duplicates=True)
    assert len(split.test) == 1
    assert split.findings[0].message.startswith("3 rows are similar to a fifth of the data")


def test_a_size_that_cannot_be_met_is_reported() -> None:
    prompts = [sentence(Random(i), 9) for i in range(200)]
    groups: list[str | None] = [f"g{i % 4}" for i in range(200)]
    records = completions(prompts, groups)
    split = split_records(iter(records), request_for(records, test_size=0.1))
    assert (len(split.test), len(split.validation)) == (50, 50)
    test, validation = split.findings
    assert (test.level, test.where, validation.where) == (
        "warning",
        "data.test_size",
        "split.validation_size",
    )
    assert test.message == (
        "50 test rows instead of the requested 20: rows with similar prompts, of one conversation "
        "or of one group stay together, in 4 clusters of up to 50 rows"
    )
    (near,) = split_records(
        iter(records), request_for(records, test_size=75, validation=False)
    ).findings
    assert near.level == "info"
    assert near.message.startswith("50 test rows instead of the requested 75")
    assert not split_records(
        iter(records), request_for(records, test_size=60, validation=False)
    ).findings


def test_validation_rows_that_are_skipped_by_default_are_reported() -> None:
    prompts = [f"question {i % 10} about thing {i % 10 * 7}" for i in range(160)]
    records = completions(prompts)
    split = split_records(iter(records), request_for(records, test_size=60))
    assert (len(split.test), len(split.validation), len(split.folds)) == (64, 0, 5)
    (finding,) = split.findings
    assert finding.message.startswith(
        "no validation rows were set aside: only 96 rows remain besides the test rows, and the"
    )


def test_answers_that_hardly_recur_are_no_labels() -> None:
    keys = [f"row {i}" for i in range(90)]
    table = RowTable(0)
    for record in completions(keys, labels=[str(i // 2) for i in range(90)]):
        table.add(record)
    table.finish()
    assert not table.labels


def test_errors_for_data_that_cannot_be_split() -> None:
    two = ["a", "b"]
    cases: list[tuple[str, Callable[[], object]]] = [
        (
            "splitting needs at least 2 rows, got 1",
            lambda: split_prompts(["a"], test_size=0.5, seed=0),
        ),
        (
            "splitting needs at least 2 rows, got 0",
            lambda: split_prompts([], test_size=0.5, seed=0),
        ),
        ("leaves no rows to train on, got 2 of 2", lambda: split_prompts(two, test_size=2, seed=0)),
        ("must be a share below 1", lambda: split_prompts(two, test_size=1.0, seed=0)),
        ("must be a share", lambda: split_prompts(two, test_size=0, seed=0)),
        ("must be a share", lambda: split_prompts(two, test_size=-0.1, seed=0)),
        ("must be a share", lambda: split_prompts(two, test_size=math.nan, seed=0)),
        ("must be a share", lambda: split_prompts(two, test_size=True, seed=0)),
        ("all 2 rows are alike", lambda: split_prompts(["a", " A"], test_size=0.5, seed=0)),
        ("one group", lambda: split_prompts(two, test_size=0.5, seed=0, groups=["g", "g"])),
    ]
    for message, call in cases:
        with pytest.raises(DataError, match=message):
            call()


def test_data_that_cannot_be_split_say_what_to_do() -> None:
    with pytest.raises(DataError, match="are alike") as caught:
        split_prompts(["a", " A"], test_size=1, seed=0)
    assert "data.test" in (caught.value.hint or "")
    assert "near_duplicates" not in (caught.value.hint or ""), "it would not help"
    with pytest.raises(DataError, match="one group") as caught:
        split_prompts(["a", "b"], test_size=1, seed=0, groups=["g", "g"])
    assert "remove `group`" in (caught.value.hint or "")


def test_surrogates_and_empty_prompts_split() -> None:
    result = split_prompts(["", "\ud83d", "x", "\udc00 y"], test_size=1, seed=0)
    assert len(result.test) == 1


# --- prompts and near duplicates ------------------------------------------------------------


def asked(*turns: str, system: str = "Be brief.") -> tuple[Message, ...]:
    roles = ("user", "assistant")
    talk = (Message(roles[i % 2], text) for i, text in enumerate(turns))  # type: ignore[arg-type]
    return (Message("system", system), *talk)


def test_records_are_compared_by_what_the_model_is_asked() -> None:
    assert prompt_text(Text(source="a", text="all of it")) == "all of it"
    assert prompt_text(Completion(source="a", prompt="q", completion="a")) == "q"
    assert prompt_text(Completion(source="a", prompt=" ", completion="a")) == " \na"
    chat = Chat(source="a", messages=asked("one", "two", "three", "four"))
    assert prompt_text(chat) == "one\ntwo\nthree"
    pair = Preference(source="a", prompt=asked("one"), chosen="x", rejected="y")
    assert prompt_text(pair) == "one"


def test_rows_with_one_prompt_stay_together_whatever_the_answers() -> None:
    prompts = [f"question {i % 355} about thing {i % 355 * 7}" for i in range(600)]
    for seed in range(5):
        result = split_prompts(prompts, test_size=120, seed=seed)
        assert len(result.test) == 120
        trained = {prompts[i] for i in result.train}
        assert not any(prompts[i] in trained for i in result.test)


def test_nearly_equal_prompts_stay_together() -> None:
    rng = Random(3)
    originals = [sentence(rng, 12) for _ in range(150)]
    prompts = [*originals, *(f"{text}, please!" for text in originals[:60])]
    duplicates = split_prompts(prompts, test_size=0.2, seed=1, near_duplicates=True)
    trained = [prompts[i] for i in duplicates.train]
    assert not any(find_nearest(trained, [prompts[i] for i in duplicates.test]))
    alone = split_prompts(prompts, test_size=0.2, seed=1)
    trained = [prompts[i] for i in alone.train]
    assert any(find_nearest(trained, [prompts[i] for i in alone.test]))


def test_prompts_that_are_equal_to_the_leak_check_stay_together() -> None:
    """Also where similar ones are not compared, so that the check finds no exact leak."""
    pairs = [(f"Is part {i} of {i * 7} here?", f"is part {i} of {i * 7}, here") for i in range(100)]
    split = split_prompts([text for pair in pairs for text in pair], test_size=40, seed=0)
    assert len(split.test) == 40 and len({*split.clusters}) == 100
    symbols = [f"What is {i} {sign} 3?" for i in range(50) for sign in "+-"]
    assert len({*split_prompts(symbols, test_size=20, seed=0).clusters}) == 100


def test_many_rows_are_compared_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters_module, "MAX_COMPARED_ROWS", 100)
    rng = Random(3)
    texts = [sentence(rng, 12) for _ in range(60)]
    records = [
        Completion(source=f"r:{i}", prompt=text, completion=f"{i}")
        for i, text in enumerate([*texts, *(f"{text}, please!" for text in texts)])
    ]
    default = split_records(records, request_for(records))
    assert [f.where for f in default.findings] == ["split.near_duplicates"]
    assert "near_duplicates = true" in default.findings[0].message
    compared = split_records(records, request_for(records), near_duplicates=True)
    assert not compared.findings
    found = [
        sum((i + 60) % 120 in {*split.train} for i in split.test) for split in (default, compared)
    ]
    assert found[0] > 5 and found[1] == 0


def test_a_prompt_that_most_rows_share_keeps_nothing_together() -> None:
    records = [
        Completion(
            source=f"r:{i}", prompt="Write a poem." if i < 60 else f"Nr {i}", completion=f"{i}"
        )
        for i in range(100)
    ]
    result = split_records(records, request_for(records), near_duplicates=False)
    assert sum(i < 60 for i in result.test) > 5
    assert sum(i < 60 for i in result.train) > 25
    (finding,) = result.findings
    assert finding.message.startswith("60 rows share their prompt with a fifth of the data")


def test_texts_of_one_form_keep_nothing_together() -> None:
    rng = Random(5)
    text = sentence(rng, 120).split()  # each row nearly equals the next one
    prompts = [" ".join(text[i : i + 20]) if i < 80 else sentence(rng, 20) for i in range(200)]
    result = split_prompts(prompts, test_size=40, seed=0, near_duplicates=True)
    assert len(result.test) == 40
    assert 5 < sum(i < 80 for i in result.test) < 30
    assert any("are similar to a fifth of the data" in f.message for f in result.findings)


# --- the validation part
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("validation", "total", "needed", "expected"),
    [
        (None, 99, False, 0), (None, 100, False, 20), (None, 480, False, 48),
        (None, 1_000_000, False, 200), (None, 40, True, 8), (None, 2, True, 1),
        (0, 500, True, 0), (7, 50, False, 7), (0.5, 50, False, 25),
    ],
)  # fmt: skip
def test_validation_rows(
    validation: float | int | None, total: int, needed: bool, expected: int
) -> None:
    assert count_validation_rows(validation, total, needed=needed) == expected


def test_validation_rows_are_apart_from_all_others() -> None:
    prompts = [f"question {i % 200} about thing {i % 200 * 7}" for i in range(400)]
    labels = [str(i % 4) for i in range(400)]
    records = completions(prompts, labels=labels)
    result = split_records(records, request_for(records), near_duplicates=False)
    assert (len(result.train), len(result.validation), len(result.test)) == (288, 32, 80)
    parts = [{prompts[i] for i in rows} for rows in (result.train, result.validation, result.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert set(Counter(labels[i] for i in result.validation).values()) == {8}
    given = split_records(
        records, request_for(records, test=False), near_duplicates=False, validation=48
    )
    assert (len(given.train), len(given.validation), len(given.test)) == (352, 48, 0)
    with pytest.raises(DataError, match=r"split\.validation_size: leaves no rows to train on"):
        split_records(records, request_for(records), near_duplicates=False, validation=320)


def test_rows_are_not_compared_if_no_part_is_split_off() -> None:
    class ReadOnce(list[Completion]):
        def __getitem__(self, index: object) -> Completion:  # type: ignore[override]
            raise AssertionError("a row is read again")

        def __iter__(self) -> Iterator[Completion]:
            raise AssertionError("the rows are read again")

    for count, validation, has_validation in ((MAX_FOLD_ROWS + 1, 0, True), (120, None, False)):
        records = completions([f"question {i} about thing {i * 7}" for i in range(count)])
        request = request_for(ReadOnce(records), test=False, validation=has_validation)
        split = split_records(iter(records), request, validation=validation)
        assert (list(split.train), [*split.validation, *split.test]) == (list(range(count)), [])


# --- rows that are added --------------------------------------------------------------------


def parts_by_source(result: Split, records: list[Completion]) -> dict[str, str]:
    return {records[row].source: part for part in PARTS for row in getattr(result, part)}


def test_rows_in_the_file_keep_their_part_whatever_is_added(tmp_path: Path) -> None:
    rng = Random(7)
    pool = completions([sentence(rng, 8) for _ in range(700)])
    present, pool = pool[:300], pool[300:]
    assigned: dict[str, str] = {}
    for seed in range(12):
        present += pool[: rng.randrange(1, 30)]
        pool = [record for record in pool if record not in present]
        if seed % 3 == 2:  # a duplicate of a row that is there
            duplicate = rng.choice(present)
            present.append(
                Completion(
                    source=f"duplicate {seed}", prompt=f"{duplicate.prompt}!", completion="x"
                )
            )
        rng.shuffle(present)
        result = split_records(
            present, request_for(present, seed=seed), file=tmp_path / "split.json"
        )
        now = parts_by_source(result, present)
        assert {source: now[source] for source in assigned} == assigned
        assigned = now
    counts = Counter(assigned.values())
    assert abs(counts["test"] - 0.2 * len(present)) <= 3


def test_a_row_that_joins_two_parts_is_trained_on_and_its_duplicates_are_reported(
    tmp_path: Path,
) -> None:
    rng = Random(9)
    records = completions([sentence(rng, 12) for _ in range(120)])
    file = tmp_path / "split.json"
    first = split_records(records, request_for(records), file=file)
    one, other = records[first.train[0]], records[first.test[0]]
    added = [
        Completion(source=r.source, prompt=r.prompt, completion=r.completion, group="patient 7")
        if r in (one, other)
        else r
        for r in records
    ]
    added.append(Completion(source="new", prompt="anew", completion="b", group="patient 7"))
    result = split_records(added, request_for(added), file=file)
    assert len(added) - 1 in result.train
    assert first.test[0] in result.test
    warning = next(f for f in result.findings if f.level == "warning")
    assert warning.message.startswith("1 test or validation rows now resemble a training row")
    assert warning.examples == (other.source,) and warning.test_rows == (0,)


def test_a_file_of_a_split_holds_hashes_only_and_is_refused_when_damaged(tmp_path: Path) -> None:
    records = completions([f"my secret {i} and {i * 7}" for i in range(120)])
    file = tmp_path / "split.json"
    first = split_records(records, request_for(records), near_duplicates=False, file=file)
    assert "secret" not in file.read_text()
    stored = Assignments.read(file)
    assert stored is not None and len(stored.rows) == len(stored.prompts) == 120
    before = file.read_bytes()
    again = split_records(records, request_for(records, seed=3), near_duplicates=False, file=file)
    assert (again.train, again.test) == (first.train, first.test)
    assert file.read_bytes() == before
    assert first.findings[0].message.startswith("120 rows were assigned")
    assert again.findings == []
    content = json.loads(before)
    for damaged in (
        before[:50], b"[]", b"{}", json.dumps({**content, "version": 2}).encode(),
        json.dumps({**content, "rows": ["no hash"]}).encode(),
    ):  # fmt: skip
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"split\.json: is not a valid split file"):
            split_records(records, request_for(records), near_duplicates=False, file=file)


def test_other_sizes_than_those_of_the_file_are_reported(tmp_path: Path) -> None:
    records = completions([f"question {i} about thing {i * 7}" for i in range(120)])
    file = tmp_path / "split.json"
    split_records(records, request_for(records), near_duplicates=False, file=file)
    again = split_records(
        records, request_for(records, test_size=0.5), near_duplicates=False, file=file, validation=7
    )
    (finding,) = again.findings
    assert finding.level == "warning" and len(again.test) == 24
    assert finding.message.startswith(
        "split.json was made with test_size = default, validation_size = default; "
        "test_size = 0.5, validation_size = 7 applies only"
    )


def test_a_row_whose_answer_is_corrected_keeps_its_part(tmp_path: Path) -> None:
    records = completions([f"question {i} about thing {i * 7}" for i in range(120)])
    file = tmp_path / "split.json"
    first = split_records(records, request_for(records), near_duplicates=False, file=file)
    corrected = [replace(record, completion=f"better {i}") for i, record in enumerate(records)]
    more = [*corrected, *completions([f"more {i}" for i in range(40)])]
    again = split_records(more, request_for(more), near_duplicates=False, file=file)
    assert set(first.test) <= set(again.test) and set(first.train) <= set(again.train)


def test_equal_rows_are_all_counted(tmp_path: Path) -> None:
    records = completions([f"question {i % 60} about {i % 60 * 7}" for i in range(120)])
    same = [replace(record, completion="a") for record in records]
    result = split_records(same, request_for(same), near_duplicates=False, file=tmp_path / "s.json")
    assert result.findings[0].message.startswith("120 rows were assigned")


def test_clusters_name_their_rows() -> None:
    records = completions(["a b c", "x", "A  b c", "y"])
    table = RowTable(0)
    for record in records:
        table.add(record)
    table.finish()
    clusters = find_clusters(table, records, near_duplicates=False)
    assert clusters.of_row.tolist() == [0, 1, 0, 3]
    assert sorted(clusters.order) == [0, 1, 3] and clusters.sizes[0] == 2
    assert choose_clusters([0, 1, 3], clusters, table, 2) == [0]
    assert choose_clusters([1, 0, 3], clusters, table, 2) == [1, 3]


# --- what counts as the same ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello  World", " hello\tworld\n"),
        ("ﬁne", "FINE"),
        ("Straße", "STRASSE"),
        ("Ｆｕｌｌ", "full"),
        ("e\u0301", "É"),
        ("a\u00a0b", "a b"),
    ],
)
def test_normalize_text_makes_variants_equal(one: str, other: str) -> None:
    assert normalize_text(one) == normalize_text(other)


def test_normalize_text_keeps_differences() -> None:
    assert len({normalize_text(t) for t in ("a b", "ab", "a.b", "á", "а", "")}) == 6


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_normalize_text_is_idempotent(text: str) -> None:
    assert normalize_text(normalize_text(text)) == normalize_text(text)


@pytest.mark.parametrize("kind", ["prose", "one template"])
def test_twenty_thousand_rows_take_seconds(kind: str) -> None:
    rng = Random(8)
    if kind == "prose":
        rows = [sentence(rng, 40) for _ in range(20_000)]
    else:
        rows = [f"{' '.join(WORDS[:15])} {i} {' '.join(WORDS[15:30])}" for i in range(20_000)]
    started = time.process_time()
    split_prompts(rows, test_size=0.1, seed=0)
    assert time.process_time() - started < 2
