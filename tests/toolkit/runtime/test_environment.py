"""Variables that torch reads are set where the user has not set them, and not by imports."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import pytest

from tunesmith_torch.runtime.environment import DEFAULTS, prepare_environment

BUILD = """
import os, sys
from tunesmith_plugins.techniques.{name}.offer import {constant} as offer
assert not {{"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}} & os.environ.keys()
import builtins
original = builtins.__import__
def watch(name, *rest, **more):
    if name.partition(".")[0] == "torch":
        print(os.environ.get("LRU_CACHE_CAPACITY"))
        sys.exit()
    return original(name, *rest, **more)
builtins.__import__ = watch
offer.build(offer.config())
"""


def test_what_the_user_has_set_stays() -> None:
    variables = {"LRU_CACHE_CAPACITY": "17"}
    prepare_environment(variables)
    assert variables == {**DEFAULTS, "LRU_CACHE_CAPACITY": "17"}


@pytest.mark.parametrize("name", ["full", "lora", "qlora", "preference", "rlhf"])
def test_building_a_technique_sets_them_before_torch_is_imported(name: str) -> None:
    import_module(f"tunesmith_plugins.techniques.{name}.offer")
    program = BUILD.format(name=name, constant=name.upper())
    variables = {key: value for key, value in os.environ.items() if key not in DEFAULTS}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "256", done.stderr[-2000:]
