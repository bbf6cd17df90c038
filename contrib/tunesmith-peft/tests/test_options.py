"""Names, types and sizes of options are checked before a run starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training import options
from verify_methods import SMALL

from tunesmith_peft.methods import METHODS
from tunesmith_peft.methods_command import command
from tunesmith_peft.options import find_name_problem, find_problems
from tunesmith_peft.peft_source import _LEFT_OUT, list_methods, read_options
from tunesmith_peft.plan_check import find_error

# isort: split
from tunesmith_torch.models.adapters import AdaptedModel  # noqa: F401 - imports PEFT

# isort: split
import dataclasses

import peft


def test_every_method_of_the_installed_peft_is_classified() -> None:
    registered = {kind.value.lower() for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING}
    assert {*list_methods()} == registered == {*METHODS}


def test_options_equal_the_fields_of_the_config_classes() -> None:
    """The fields read from the sources are those of PEFT's dataclasses."""
    common = {field.name for field in dataclasses.fields(peft.PeftConfig)} | _LEFT_OUT
    for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items():
        fields = {f.name: f for f in dataclasses.fields(config) if f.init and f.name not in common}
        found = read_options(kind.value.lower())
        assert {*found} == {*fields}, kind
        for name, field in fields.items():
            if isinstance(field.default, int | float | str):
                assert found[name].default == repr(field.default) or "." in found[name].default


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("verra", {}, 'did you mean "vera"'),
        ("vera", {"rr": 4}, 'vera has no option "rr"; did you mean "r"'),
        ("vera", {"r": "4"}, "option r of vera must be int"),
        ("vera", {"d_initial": float("nan")}, "option d_initial of vera must be float"),
        ("loha", {"init_weights": "random"}, "option init_weights of loha must be bool"),
        ("poly", {}, "it needs the number of the task in each row"),
        ("prompt_tuning", {}, "requires option num_virtual_tokens"),
        ("prompt_tuning", {"prompt_tuning_init": "text"}, "option prompt_tuning_init"),
        ("prompt_tuning", {"tokenizer_name_or_path": "x/y"}, "has no option"),
        ("shadow", {"shadow_model": "x/y"}, 'has no option "shadow_model"'),
        ("cpt", {"opt_weighted_loss_type": "decay"}, "has no option"),
        ("lora", {"corda_config": {"cache_file": "x"}}, "names a pickled file"),
    ],
)
def test_a_wrong_name_or_type_is_explained(method: str, given: Any, message: str) -> None:
    found = find_name_problem(method) or next(find_problems(method, given))
    assert message in found


def test_right_options_have_no_problem() -> None:
    given = {"init_lora_weights": "pissa_niter_4", "eva_config": {"rho": 2.0}, "r": 4}
    assert not [*find_problems("lora", given)]
    assert not [*find_problems("lora", {"rank_pattern": {"q_proj": 4}, "target_modules": ["o"]})]


def test_a_method_that_fails_in_4_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="does not work on a base model in 4 or 8 bits"):
        options("loha", quantization={"bits": 4})
    assert options("vera", quantization={"bits": 4}).adaptation.quantization is not None


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("vblora", {}, "vector_length"),
        ("road", {}, "group_size"),
        ("c3a", {}, "block size"),
        ("oft", {"r": 8, "oft_block_size": 8}, "You can only specify either r"),
        ("vera", {"target_modules": ["nothing"]}, "no layers types compatible"),
        ("adalora", {"r": 8}, ""),
        ("lora", {"init_lora_weights": "eva", "eva_config": {"rho": 0.5}}, "rho"),
        ("lora", {"init_lora_weights": "pissa", "target_modules": ["nothing"]}, "target modules"),
        ("lora", {"init_lora_weights": "nothing"}, "unknown initialization"),
        ("adalora", {"beta1": 2.0}, "AssertionError"),
    ],
)
def test_sizes_and_bounds_are_checked_from_the_config_alone(
    method: str, given: Any, message: str, tiny_model: Path
) -> None:
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    error = find_error(options(method, given), config)
    assert (error is None) == (message == ""), error
    assert message.lower() in (error.message.lower() if error else "")


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.refused])
def test_a_method_that_trains_passes_the_check(method: str, tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    assert find_error(options(method, SMALL.get(method)), config) is None


def test_listing_methods_does_not_import_torch() -> None:
    code = (
        "import sys; from tunesmith_peft import offer, methods_command; "
        "from tunesmith_peft.peft_source import read_options; read_options('vera'); "
        "assert not {'torch', 'peft', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_initializations_are_told_apart() -> None:
    """Initializations that read rows, and those that change the base weights in memory."""
    kinds = {"pissa_niter_4": (False, True), "eva": (True, False), "corda": (True, True)}
    for kind, expected in kinds.items():
        given = options("lora", {"init_lora_weights": kind})
        assert (given.reads_rows, given.changes_base) == expected
    assert not options("vera").reads_rows
    assert options("lora", {"init_lora_weights": "OLoRA"}).changes_base, "as PEFT reads it"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"init_lora_weights": "pissa", "use_dora": True}, "cannot be combined with use_dora"),
        ({"init_lora_weights": "olora", "kasa_config": {}}, "cannot be combined with kasa_config"),
        ({"init_lora_weights": "loftq"}, "loftq.* is not supported"),
    ],
)
def test_initializations_that_do_not_fit_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options("lora", given)


def test_an_initial_model_is_refused() -> None:
    with pytest.raises(ValueError, match="starts from the base model"):
        options("vera", **{"from": "runs/earlier"})


def test_an_initialization_on_rows_needs_unquantized_weights() -> None:
    with pytest.raises(ValueError, match="needs weights that are not quantized"):
        options("lora", {"init_lora_weights": "eva"}, quantization={"bits": 4})


def test_a_layer_beyond_the_first_ones_may_be_named(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 6

    def find(layer: int) -> Any:
        given = {"target_modules": [f"model.layers.{layer}.self_attn.q_proj"]}
        return find_error(options("lora", given), config)

    assert find(5) is None and find(6) is not None


def test_a_text_for_a_prompt_needs_no_tokenizer_to_check_the_plan(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    given = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Who?"}
    assert find_error(options("prompt_tuning", {"num_virtual_tokens": 4, **given}), config) is None


def test_the_command_lists_methods() -> None:
    assert command.name == "methods" and "technique.method" in str(command.help)
