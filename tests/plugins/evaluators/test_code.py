"""Programs run with their tests, and accidents of generated code do no harm."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith.testing.examples import COMPLETIONS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.code.offer import CODE, CodeOptions
from tunesmith_plugins.evaluators.code.run_program import Limits, extract_code, passes

RIGHT = "def double(x):\n    return 2 * x"
TESTS = "assert double(4) == 8"
LIMITS = Limits(seconds=5, memory_bytes=400_000_000)


def measure(answers: list[str], **options: Any) -> tuple[float, ...]:
    records = [
        Completion(source=f"a:{n}", prompt=f"q{n}", completion=RIGHT, slices=(("test", TESTS),))
        for n in range(len(answers))
    ]

    class Model(FakeTextModel):
        """A fake model that keeps the lines of its answers."""

    model = Model(answers={f"q{n}": answer for n, answer in enumerate(answers)})
    built = CODE.build(CodeOptions(execute_generated_code=True, max_new_tokens=512, **options))
    (found,) = built.measure(model, records)
    return found.values


def test_right_and_wrong_programs() -> None:
    wrong = RIGHT.replace("2", "3")
    answers = [RIGHT, f"Here:\n```python\n{RIGHT}\n```\nIt doubles.", wrong, "", "def double("]
    assert measure(answers, processes=2) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "while True: pass",
        "x = 'a' * 10**9",
        "open('big', 'wb').write(b'0' * 20_000_000)",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import ctypes; ctypes.CDLL(None)",
        "import os; os.environ['PATH']",
        "input()",
    ],
    ids=str,
)
def test_accidents_do_not_pass(program: str) -> None:
    limits = Limits(seconds=1, memory_bytes=400_000_000)
    started = time.monotonic()
    assert not passes(f"{RIGHT}\n{program}", TESTS, limits)
    assert time.monotonic() - started < 20
    assert passes(RIGHT, TESTS, LIMITS)


def test_files_outside_of_the_folder_stay(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("all of it", encoding="utf-8")
    for program in (
        f"open({str(kept)!r}, 'w').write('')",
        f"import os; os.remove({str(kept)!r})",
        f"import os; os.rename({str(kept)!r}, 'mine')",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        f"from pathlib import Path; Path({str(tmp_path)!r}, 'new').write_text('x')",
    ):
        assert not passes(f"{RIGHT}\n{program}", TESTS, LIMITS), program
    assert kept.read_text(encoding="utf-8") == "all of it"
    assert os.listdir(tmp_path) == ["kept.txt"]
    assert passes(f"{RIGHT}\nopen('own', 'w').write('x')", TESTS, LIMITS)


def test_code_in_an_answer() -> None:
    assert extract_code("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```") == "x = 1\n\ny = 2"
    assert extract_code("x = 1") == "x = 1"
    assert extract_code("```py\nx = 1") == "x = 1"


def test_consent_is_needed() -> None:
    for options in ({}, {"execute_generated_code": False}):
        with pytest.raises(ValidationError):
            CodeOptions(**options)  # type: ignore[arg-type]
    assert not CODE.default_for(COMPLETIONS)


def test_a_row_without_tests_is_an_error() -> None:
    built = CODE.build(CodeOptions(execute_generated_code=True))
    with pytest.raises(DataError, match="kit:1: the row has no tests in `test`"):
        built.measure(FakeTextModel(), COMPLETIONS)
