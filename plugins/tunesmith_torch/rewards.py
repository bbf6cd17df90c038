"""Where rewards come from: a function of the user's, a reward model, or a weighted mix."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import TrainingError, UsageError
from tunesmith.records import Message, Prompt
from tunesmith_torch.policy import Reward


@dataclass(frozen=True)
class FunctionReward:
    """A plain Python function: ``def reward(prompt: str, answer: str) -> float``.

    ``prompt`` is the text of the last message.
    """

    function: Callable[[str, str], Any]
    name: str

    @classmethod
    def read(cls, where: str) -> FunctionReward:
        """The function of ``file.py:function``. The file is run, as any program of the user's.

        Raises:
            UsageError: there is no such file or function, or it does not take two arguments.
        """
        file, _, name = where.rpartition(":")
        path = Path(file)
        if not file or not path.is_file():
            raise UsageError(
                f'technique.policy.rewards: no such file, got "{where}"',
                hint='write "file.py:function"',
            )
        spec = importlib.util.spec_from_file_location(f"tunesmith_reward_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UsageError(f"technique.policy.rewards: {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return cls._taken(vars(module).get(name), name, str(path))

    @classmethod
    def installed(cls, where: str) -> FunctionReward:
        """The function of ``package.module:function``, of a package that is installed.

        Raises:
            UsageError: there is no such module or function, or it does not take two arguments.
        """
        module, _, name = where.rpartition(":")
        try:
            found = importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f'technique.policy.rewards: no module "{module}" is installed, {error}',
                hint='write "package.module:function"',
            ) from None
        return cls._taken(vars(found).get(name), name, module)

    @classmethod
    def _taken(cls, function: Any, name: str, where: str) -> FunctionReward:
        if not callable(function):
            raise UsageError(f'technique.policy.rewards: {where} has no function "{name}"')
        if len(inspect.signature(function).parameters) != 2:
            raise UsageError(f"technique.policy.rewards: {name} must take a prompt and an answer")
        return cls(function, name)

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One call for each answer.

        Raises:
            TrainingError: a reward is not a finite number.
        """
        found = []
        for prompt, answer in zip(prompts, completions, strict=True):
            value = self.function(_text(prompt), answer)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise TrainingError(
                    f"reward {self.name}: must give a finite number, got {value!r:.60}"
                )
            found.append(float(value))
        return found


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
