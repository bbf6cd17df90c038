"""Compute rewards with the user's Python functions, and the weighted sum of several rewards."""

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
from tunesmith.text import format_count
from tunesmith_torch.rlhf.rollout import Reward

DEFAULT_OPTION = "technique.policy.rewards"
"""The option named in errors about a function, unless the caller passes another one."""


@dataclass(frozen=True)
class FunctionReward:
    """A reward from a plain Python function: ``def reward(prompt: str, answer: str) -> float``.

    The function gets the text of the prompt's last message and the text of the completion.
    """

    function: Callable[[str, str], Any]
    name: str

    @classmethod
    def from_file(cls, where: str, option: str = DEFAULT_OPTION) -> FunctionReward:
        """Import the function of ``file.py:function``; the file is executed.

        Raises:
            UsageError: the file or function does not exist, the file cannot be executed, or the
                function does not take two arguments.
        """
        file, _, name = where.rpartition(":")
        path = Path(file)
        if not file:
            raise UsageError(f'{option}: must have the form "file.py:function", got "{where}"')
        if not path.is_file():
            raise UsageError(f"{option}: {path}: no such file", hint="check the path")
        spec = importlib.util.spec_from_file_location(f"tunesmith_reward_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UsageError(
                f"{option}: {path} is not a Python file", hint='write it as "file.py:function"'
            )
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UsageError(f"{option}: {path} cannot be run: {_describe(error)}") from error
        return cls._from_callable(vars(module).get(name), name, str(path), option)

    @classmethod
    def from_package(cls, where: str, option: str = DEFAULT_OPTION) -> FunctionReward:
        """Import the function of ``package.module:function`` from an installed package.

        Raises:
            UsageError: the module or function does not exist, or it does not take two arguments.
        """
        module, _, name = where.rpartition(":")
        try:
            imported = importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f'{option}: cannot import the module "{module}": {error}',
                hint='install its package, and write the option as "package.module:function"',
            ) from None
        return cls._from_callable(vars(imported).get(name), name, module, option)

    @classmethod
    def _from_callable(cls, function: Any, name: str, where: str, option: str) -> FunctionReward:
        if not callable(function):
            raise UsageError(
                f'{option}: {where} has no function "{name}"',
                hint="define the function there, or correct its name",
            )
        try:
            inspect.signature(function).bind("prompt", "answer")
        except TypeError:
            raise UsageError(
                f"{option}: {name} must take two arguments, a prompt and an answer"
            ) from None
        except ValueError:
            pass  # a compiled function without a signature is tested by its first call
        return cls(function, name)

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Call the function once per completion.

        Raises:
            TrainingError: the function raised an exception, or a reward is not a finite number.
        """
        pairs = zip(prompts, completions, strict=True)
        return [self._reward(_text(prompt), completion) for prompt, completion in pairs]

    def _reward(self, prompt: str, completion: str) -> float:
        try:
            value = self.function(prompt, completion)
        except TunesmithError:
            raise
        except Exception as error:
            raise TrainingError(
                f"reward {self.name}: raised an exception for an answer of "
                f"{format_count(len(completion), 'character')}: {_describe(error)}",
                hint="return a number for every answer, even an empty one",
            ) from error
        number = _number(value)
        if not math.isfinite(number):
            raise TrainingError(
                f"reward {self.name}: must return a finite number, got {value!r:.60} for an answer "
                f"of {format_count(len(completion), 'character')}",
                hint="return a number for every answer, even an empty one",
            )
        return number


@dataclass(frozen=True)
class WeightedRewardSum:
    """A weighted sum of rewards."""

    parts: tuple[tuple[float, Reward], ...]
    """Weight and reward of each term."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return the weighted sum for each completion."""
        columns = [
            [weight * value for value in reward.rewards(prompts, completions)]
            for weight, reward in self.parts
        ]
        return [math.fsum(column) for column in zip(*columns, strict=True)]


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    last: Message = prompt[-1]
    return last.text


def _number(value: Any) -> float:
    """Convert a Python, numpy or torch number to float; return NaN for anything else."""
    try:
        return float(value) if isinstance(value, SupportsFloat) else math.nan
    except (TypeError, ValueError):
        return math.nan


def _describe(error: Exception) -> str:
    """Return the error's type, message and source location as one line."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message:.200}{at}"
