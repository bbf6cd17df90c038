"""Where rewards come from: a function of the user's, a reward model, or a weighted mix."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

from tunesmith.errors import TrainingError, TunesmithError, UsageError
from tunesmith.records import Message, Prompt
from tunesmith_torch.rlhf.rollout import Reward

OPTION = "technique.policy.rewards"
"""Where a function is named, if nobody says otherwise."""


@dataclass(frozen=True)
class FunctionReward:
    """A plain Python function: ``def reward(prompt: str, answer: str) -> float``.

    ``prompt`` is the text of the last message.
    """

    function: Callable[[str, str], Any]
    name: str

    @classmethod
    def read(cls, where: str, option: str = OPTION) -> FunctionReward:
        """The function of ``file.py:function``. The file is run, as any program of the user's.

        Raises:
            UsageError: there is no such file or function, it cannot be run, or it does not take two
                arguments.
        """
        file, _, name = where.rpartition(":")
        path = Path(file)
        if not file or not path.is_file():
            raise UsageError(
                f'{option}: no such file, got "{where}"', hint='write "file.py:function"'
            )
        spec = importlib.util.spec_from_file_location(f"tunesmith_reward_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{option}: {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UsageError(f"{option}: {path} cannot be run, {_told(error)}") from error
        return cls._taken(vars(module).get(name), name, str(path), option)

    @classmethod
    def installed(cls, where: str, option: str = OPTION) -> FunctionReward:
        """The function of ``package.module:function``, of a package that is installed.

        Raises:
            UsageError: there is no such module or function, or it does not take two arguments.
        """
        module, _, name = where.rpartition(":")
        try:
            found = importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f'{option}: no module "{module}" is installed, {error}',
                hint='write "package.module:function"',
            ) from None
        return cls._taken(vars(found).get(name), name, module, option)

    @classmethod
    def _taken(cls, function: Any, name: str, where: str, option: str) -> FunctionReward:
        if not callable(function):
            raise UsageError(f'{option}: {where} has no function "{name}"')
        try:
            inspect.signature(function).bind("prompt", "answer")
        except TypeError:
            raise UsageError(f"{option}: {name} must take a prompt and an answer") from None
        except ValueError:  # compiled, and does not say what it takes: its first call will
            pass
        return cls(function, name)

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One call for each answer.

        Raises:
            TrainingError: the function raised, or a reward is not a finite number.
        """
        pairs = zip(prompts, completions, strict=True)
        return [self._reward(_text(prompt), answer) for prompt, answer in pairs]

    def _reward(self, prompt: str, answer: str) -> float:
        try:
            value = self.function(prompt, answer)
        except TunesmithError:
            raise
        except Exception as error:
            raise TrainingError(
                f"reward {self.name}: raised for an answer of {len(answer)} characters, "
                f"{_told(error)}",
                hint="let the function give a number for every answer, an empty one too",
            ) from error
        number = _number(value)
        if not math.isfinite(number):
            raise TrainingError(
                f"reward {self.name}: must give a finite number, got {value!r:.60} for an answer "
                f"of {len(answer)} characters",
                hint="let the function give a number for every answer, an empty one too",
            )
        return number


@dataclass(frozen=True)
class MixedReward:
    """A weighted sum of rewards."""

    parts: tuple[tuple[float, Reward], ...]

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The sum, answer by answer."""
        columns = [
            [weight * value for value in reward.rewards(prompts, completions)]
            for weight, reward in self.parts
        ]
        return [math.fsum(column) for column in zip(*columns, strict=True)]


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    last: Message = prompt[-1]
    return last.content


def _number(value: Any) -> float:
    """A number of any kind, numpy's and torch's too; NaN for what is none, such as text."""
    try:
        return float(value) if isinstance(value, SupportsFloat) else math.nan
    except (TypeError, ValueError):
        return math.nan


def _told(error: Exception) -> str:
    """What went wrong and in which line, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said:.200}{at}"
