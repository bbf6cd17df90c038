"""The search space: read from a run file or a command line, counted, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith_optuna.space import Choices, Range, list_combinations, read_argument, read_space

RATE, RANK = "technique.learning_rate", "technique.adapter.rank"


def test_nested_and_dotted_keys_are_the_same_in_any_order() -> None:
    nested = {"technique": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}}
    dotted = {RANK: [4, 8], RATE: {"low": 1e-5, "high": 1e-3, "log": True}}
    assert read_space(nested).dimensions == (Range(RATE, 1e-5, 1e-3, log=True),)
    assert read_space(dotted) == read_space(dict(reversed(dotted.items())))
    assert [d.key for d in read_space(dotted).dimensions] == [RANK, RATE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{RATE}=1e-5:1e-3:log", {"low": 1e-5, "high": 1e-3, "log": True}),
        (f"{RANK}=4:64", {"low": 4, "high": 64}),
        ("technique.adapter.dropout=0:0.2:0.05", {"low": 0, "high": 0.2, "step": 0.05}),
        (f"{RANK}=4, 8,16", [4, 8, 16]),
        ("technique.use=lora,full", ["lora", "full"]),
        ("technique.packing=true,false", [True, False]),
    ],
)
def test_the_command_line_says_the_same(text: str, expected: object) -> None:
    key, item = read_argument(text)
    assert (key, item) == (text.partition("=")[0], expected)
    read_space({key: item})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"low": 1}, "lacks `high`"),
        ({"low": 2, "high": 1}, "low must be below high, got 2 and 1"),
        ({"low": 0, "high": 1, "log": True}, "low must be above 0 for log"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "log and step cannot be combined"),
        ({"low": 1, "high": 2, "step": 3}, "step must be above 0 and fit"),
        ({"low": "1", "high": 2}, "must be numbers"),
        ({"low": 1, "high": 2, "logg": True}, "got 'logg'"),
        ([4], "at least two different values"),
        ([4, 4], "at least two different values"),
        ("4,8", "must be a list of values or a range"),
    ],
)
def test_a_wrong_dimension_is_refused_by_its_key(item: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_space({RANK: item})
    assert str(caught.value).startswith(f"{RANK}: ")


@pytest.mark.parametrize("key", ["run.seed", "data.test_size", "lora.rank", "model.base"])
def test_only_options_of_the_technique_are_searched(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: only options of the technique"):
        read_space({key: [1, 2]})


@pytest.mark.parametrize("text", ["technique.epochs", "=1,2", "technique.epochs="])
def test_an_argument_without_values_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected KEY=LOW:HIGH"):
        read_argument(text)


def test_combinations_are_counted_where_they_are_finite() -> None:
    finite = read_space({RANK: [4, 8], "technique.epochs": {"low": 1, "high": 3}})
    assert finite.size == 6 and len({tuple(c.values()) for c in list_combinations(finite)}) == 6
    assert read_space({RANK: [4, 8], RATE: {"low": 1e-5, "high": 1e-3}}).size is None
    steps = read_space({"technique.adapter.dropout": {"low": 0, "high": 0.17, "step": 0.05}})
    assert steps.size == 4 and steps.dimensions[0].ends()[-1] == pytest.approx(0.15)


def test_options_are_encoded_if_they_are_in_the_space() -> None:
    modules = [["q_proj", "v_proj"], "all-linear"]
    space = read_space({"technique.adapter.target_modules": modules, RANK: {"low": 4, "high": 16}})
    (choices, _) = sorted(space.dimensions, key=lambda d: isinstance(d, Range))
    assert isinstance(choices, Choices) and '["q_proj", "v_proj"]' in choices.values
    for value in modules:
        options = {RANK: 8, "technique.adapter.target_modules": value}
        params = space.encode(options)
        assert params is not None and space.decode(params) == options
    assert space.encode({RANK: 32, "technique.adapter.target_modules": "all-linear"}) is None
    assert space.encode({RANK: 8}) is None
    dropout = read_space({"technique.adapter.dropout": {"low": 0.0, "high": 0.2, "step": 0.05}})
    assert dropout.encode({"technique.adapter.dropout": 0.1}) is not None
    assert dropout.encode({"technique.adapter.dropout": 0.12}) is None
