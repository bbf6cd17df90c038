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
from tunesmith_evidence.answers.extract_code import Names, extract_code, read_names
from tunesmith_plugins.evaluators.code.offer import CODE, CodeOptions
from tunesmith_plugins.evaluators.code.run_program import Limits, passes_tests

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
    assert not passes_tests(f"{RIGHT}\n{program}", TESTS, limits)
    assert time.monotonic() - started < 20
    assert passes_tests(RIGHT, TESTS, LIMITS)


@pytest.mark.parametrize(
    "block",
    [
        "print(double(int(input())))",
        "import sys\n    sys.exit(double(0))",
        "import unittest\n    unittest.main()",
    ],
)
def test_the_main_block_of_a_program_does_not_run(block: str) -> None:
    program = f'{RIGHT}\nif __name__ == "__main__":\n    {block}'
    assert passes_tests(program, TESTS, LIMITS)
    assert not passes_tests(program.replace("2 * x", "3 * x"), TESTS, LIMITS)
    guarded = f'if __name__ == "__main__":\n    {TESTS}'
    assert passes_tests(RIGHT, guarded, LIMITS)
    assert not passes_tests(RIGHT.replace("2", "3"), guarded, LIMITS), "that of the tests does"


@pytest.mark.parametrize(
    "program",
    [
        "import asyncio\nasync def twice(x):\n    return 2 * x\n"
        "def double(x):\n    return asyncio.run(twice(x))",
        f"import pickle\nclass A: ...\npickle.loads(pickle.dumps(A()))\n{RIGHT}",
        f"from __future__ import annotations\nfrom dataclasses import dataclass\n{RIGHT}\n"
        "@dataclass\nclass A:\n    x: int = 0",
        f"import inspect\n{RIGHT}\ninspect.getsource(double)",
        f"\ufeff# größer 漢字\n{RIGHT}".replace("\n", "\r\n"),
    ],
    ids=["asyncio", "pickle", "dataclass", "source", "characters"],
)
def test_programs_that_use_their_module_pass(program: str) -> None:
    assert passes_tests(program, TESTS, LIMITS)
    assert passes_tests(program, f"from __future__ import annotations\n{TESTS}", LIMITS)


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
        assert not passes_tests(f"{RIGHT}\n{program}", TESTS, LIMITS), program
    assert kept.read_text(encoding="utf-8") == "all of it"
    assert os.listdir(tmp_path) == ["kept.txt"]
    assert passes_tests(f"{RIGHT}\nopen('own', 'w').write('x')", TESTS, LIMITS)


FENCED = {
    "Python": "```Python\n{0}\n```",
    "python3": "```python3\n{0}\n```",
    "py": "```py\n{0}\n```",
    "tildes": "~~~python\n{0}\n~~~",
    "a longer fence": "````python\n{0}\n````",
    "an attribute": '```python title="double.py"\n{0}\n```',
    "braces": "```{{.python}}\n{0}\n```",
    "an item of a list": "1. Write it:\n\n   ```python\n   {1}\n   ```\n2. Use it.",
    "cut off": "Here:\n```python\n{0}",
    "line ends of Windows": "Here:\r\n```python\r\n{0}\r\n```",
    "a bare use": "```python\n{0}\n```\nUse:\n```\n>>> double(4)\n8\n```",
    "a use that fails": "```python\n{0}\n```\n```python\nprint(double(int(input())))\n```",
    "a wrong example": "```\n{0}\n```\n```\nassert double(4) == 9\n```",
    "a use before it": "```python\ndouble(4)\n```\nwith\n```python\n{0}\n```",
    "only the use is tagged": "```\n{0}\n```\n```python\ndouble(int(input()))\n```",
    "other languages": "```bash\npip install x\n```\n```python\n{0}\n```\n```text\n8\n```",
    "a wrong tag": "```code\n{0}\n```",
    "in two parts": "```python\nTWO = 2\n```\nand\n"
    "```python\ndef double(x):\n    return TWO * x\n```",
    "a part behind it": "```\ndef double(x):\n    return twice(x)\n```\n"
    "```\ndef twice(x):\n    return 2 * x\n```",
    "an import of its own": "```\nfrom operator import *\n```\n"
    "```\ndef double(x):\n    return mul(2, x)\n```",
    "corrected": "```\ndef double(x):\n    return x\n```\nNo:\n```\n{0}\n```",
}


@pytest.mark.parametrize("form", FENCED)
def test_a_right_program_passes_in_every_form(form: str) -> None:
    answer = FENCED[form].format(RIGHT, RIGHT.replace("\n", "\n   "))
    assert passes_tests(extract_code(answer, TESTS), TESTS, LIMITS)


def test_a_wrong_program_passes_in_no_form() -> None:
    wrong = RIGHT.replace("2", "3")
    for form in ("Python", "tildes", "a bare use", "a use before it", "other languages"):
        answer = FENCED[form].format(wrong, "")
        assert not passes_tests(extract_code(answer, TESTS), TESTS, LIMITS), form
    worse = f"```\n{RIGHT}\n```\nBetter:\n```\n{wrong}\n```"
    assert not passes_tests(extract_code(worse, TESTS), TESTS, LIMITS), "the last definition holds"


def test_code_in_an_answer() -> None:
    both = "a\n```python\nx = 1\n```\nb\n```\ny = 2\n```"
    assert extract_code(both, "assert x") == "x = 1"
    assert extract_code(both, "assert x + y") == "x = 1\n\ny = 2"
    assert extract_code(both, "y = 1") == "x = 1", "no name is needed: the blocks of the language"
    assert extract_code(both, "not (Python") == "x = 1"
    assert extract_code("x = 1", "assert x") == "x = 1"
    assert extract_code("```py\nx = 1", "assert x") == "x = 1"
    assert extract_code("```py\ndef (\n```", "assert x") == "def ("
    assert extract_code("<think>```\nx = 2\n```</think>x = 1", "assert x") == "x = 1"


def test_names_of_code() -> None:
    code = (
        "import re\nfrom a.b import c as d\nclass E(F):\n    g = h\n    def i(self): return j(k=d)"
    )
    assert read_names(code) == Names(frozenset({"re", "d", "E"}), frozenset({"F", "h", "j", "d"}))
    assert read_names("f = lambda x: [y for y in z(x)]\nprint(f)") == Names(
        frozenset({"f"}), frozenset({"z", "f"})
    )
    assert read_names("from a import *").imports_all
    for text in (">>> f()", "\0", "(" * 10_000, "-" * 100_000 + "1"):
        assert read_names(text) == Names()


def test_consent_is_needed() -> None:
    for options in ({}, {"execute_generated_code": False}):
        with pytest.raises(ValidationError):
            CodeOptions(**options)  # type: ignore[arg-type]
    assert not CODE.default_for(COMPLETIONS)


def test_a_row_without_tests_is_an_error() -> None:
    built = CODE.build(CodeOptions(execute_generated_code=True))
    with pytest.raises(DataError, match="kit:1: the row has no tests in `test`"):
        built.measure(FakeTextModel(), COMPLETIONS)
