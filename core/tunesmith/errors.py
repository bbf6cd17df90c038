"""Everything that tunesmith raises on purpose.

::

    TunesmithError                       1   (never raised itself)
    ├── UsageError                       2   the command line asks for something impossible
    │   └── ConfigError                  2   the run file is wrong; carries every problem found
    ├── DataError                        3   a data file cannot be used; names file and line
    ├── EnvironmentProblem               4   the machine is missing something, or it does not fit
    ├── TrainingError                    5   training went wrong: not finite, diverged, no memory
    ├── GateError                        6   a quality gate said no
    ├── IntegrityError                   7   a file is not what its manifest says
    ├── PluginError                      8   a plugin is missing, broken, ambiguous, or raised
    └── RunStopped                 75|130|143   a limit or a signal ended the run; it can be resumed

The number is the exit code of the command line.
A message is one lower-case sentence, ``where: what is wrong, got what``, without a full stop;
``hint`` says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TunesmithError(Exception):
    """The root: ``except TunesmithError`` catches what tunesmith reports, and no bug."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TunesmithError):
    """The command line or the folder it names asks for something that cannot be done."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a run file: where it is, what is wrong, and perhaps a way out."""

    where: str
    what: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(UsageError):
    """A run file with problems; all of them, so that one edit can mend them together."""

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems), hint=hint)


class DataError(TunesmithError):
    """A data file cannot be used.

    ``where`` is ``file:line`` where a line is known.
    """

    exit_code = 3

    def __init__(self, where: str, what: str, *, hint: str | None = None) -> None:
        super().__init__(f"{where}: {what}", hint=hint)
        self.where = where


class EnvironmentProblem(TunesmithError):
    """The machine lacks something: memory, disk, a library, a model that must be there."""

    exit_code = 4


class TrainingError(TunesmithError):
    """Training itself failed: a loss that is not finite, divergence, memory exhausted."""

    exit_code = 5


class GateError(TunesmithError):
    """A quality gate of the run file was not met."""

    exit_code = 6


class IntegrityError(TunesmithError):
    """A file differs from what its manifest recorded."""

    exit_code = 7


class PluginError(TunesmithError):
    """A plugin is missing, broken or ambiguous, or raised while it worked."""

    exit_code = 8


class RunStopped(TunesmithError):
    """A signal or a limit ended the run at a step boundary; ``tunesmith resume`` continues it.

    Raised by ``job.emit`` into the technique, which lets it pass.
    """

    def __init__(self, reason: str, *, exit_code: int = 75) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class TunesmithWarning(UserWarning):
    """A warning of tunesmith's own; the project's tests turn it into an error."""
