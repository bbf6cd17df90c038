"""Each check of exporters fails on an exporter that breaks its promise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tunesmith.contracts import Generation
from tunesmith.errors import IntegrityError
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ExporterOffer
from tunesmith.options import Options
from tunesmith.testing import run_checks
from tunesmith.testing.checks import REGISTERED_CHECKS


class Words:
    """An engine whose tokens are characters."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.calls = 0

    def render(self, prompt: Any) -> str:
        return "nothing" if self.fault == "render" else prompt[0].text

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) % 256 for letter in text]

    def generate(self, prompts: Any, max_new_tokens: int) -> list[Generation]:
        self.calls += 1
        text = str(self.calls) if self.fault == "generate" else "yes"
        return [Generation(text, 2, "stop", (1, 2)) for _ in prompts]

    def logprobs(self, ids: Any, first: int) -> list[list[float]]:
        share = 0.1 if self.fault == "logprobs" else 1 / 256
        return [[math.log(share)] * 256 for _ in ids[first:]]


class Exporter:
    """Copies the model, with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def export(self, model: Path, out: Path) -> None:
        (out / "size").write_text("8")
        (out / "data").write_text("12345678")
        if self.fault == "writes":
            (out.parent / "beside").write_text("")

    def facts(self, out: Path) -> dict[str, Any]:
        if self.fault != "facts" and len((out / "data").read_text()) != 8:
            raise IntegrityError("data: incomplete")
        return {"end_ids": frozenset() if self.fault == "ends" else {2}}

    @contextmanager
    def open(self, out: Path) -> Iterator[Words]:
        yield Words(self.fault)


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("", ""),
        ("writes", "writes_only_below_its_folder"),
        ("ends", "says_what_the_files_hold"),
        ("facts", "refuses_an_incomplete_export"),
        ("render", "the_engine_answers"),
        ("generate", "the_engine_answers"),
        ("logprobs", "log_probabilities_are_distributions"),
    ],
)
def test_exactly_the_right_check_fails(fault: str, broken: str, tmp_path: Path) -> None:
    offer = ExporterOffer(
        name="copy",
        summary="A copy",
        config=Options,
        build=lambda options: Exporter(fault),  # type: ignore[arg-type, return-value]
        tolerance=lambda options: 0.0,
    )
    module = ModuleType("copying")
    module.tunesmith_exporters = hookimpl(lambda: [offer])  # type: ignore[attr-defined]
    (tmp_path / "config.json").write_text("{}")
    results = run_checks(module, model=tmp_path)
    names = {check.name for check in REGISTERED_CHECKS if check.kind == "exporter"}
    assert {r.check for r in results if r.state != "skipped"} >= names
    assert {r.check for r in results if r.state == "failed"} & names == {*filter(None, [broken])}
