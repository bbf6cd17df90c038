"""A patch of a library is what a plugin replaced, and not what it added."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from tunesmith.testing.checks import Subject
from tunesmith.testing.everyone import library_attributes, require_unpatched

NAME = "peft.specimen"
ELSEWHERE = cast(Subject, SimpleNamespace(module=SimpleNamespace(__file__="/elsewhere/plugin.py")))
HERE = cast(Subject, SimpleNamespace(module=sys.modules[__name__]))


def run() -> None:
    """Stand for a patch: its code is in this file."""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of a library, with a function, a class and a constant."""
    module = ModuleType(NAME)
    exec(
        "LIMIT = 1\ndef load(): pass\ndef _private(): pass\n"
        "class Layer:\n    def forward(self): pass\n    def __init__(self): pass\n",
        vars(module),
    )
    monkeypatch.setitem(sys.modules, NAME, module)
    return module


@pytest.mark.parametrize(
    ("patch", "found"),
    [
        (lambda library: setattr(library, "load", print), "load"),
        (lambda library: setattr(library, "Layer", dict), "Layer"),
        (lambda library: setattr(library.Layer, "forward", print), "Layer.forward"),
        (lambda library: setattr(library.Layer, "__init__", print), "Layer.__init__"),
    ],
)
def test_a_replaced_attribute_is_a_patch(
    library: Any, patch: Callable[[Any], None], found: str
) -> None:
    before = library_attributes()
    patch(library)
    with pytest.raises(AssertionError, match=rf"the plugin replaces {NAME}\.{found}$"):
        require_unpatched(before, ELSEWHERE)


def test_an_addition_a_private_name_and_a_constant_are_no_patch(library: Any) -> None:
    before = library_attributes()
    library.save = library.Layer.backward = library._private = print
    library.LIMIT = 2
    require_unpatched(before, ELSEWHERE)


@pytest.mark.parametrize("where", ["module", "class"])
def test_a_patch_that_was_made_before_is_recognized_by_its_code(library: Any, where: str) -> None:
    patched = library if where == "module" else library.Layer
    patched.run = run
    before = library_attributes()
    with pytest.raises(AssertionError, match=r"the plugin replaces .*\brun$"):
        require_unpatched(before, HERE)
    require_unpatched(before, ELSEWHERE)
