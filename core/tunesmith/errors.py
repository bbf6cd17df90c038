"""The exceptions that tunesmith raises on purpose.

::

    TunesmithError                       1   (never raised itself)
    ├── UsageError                       2   the command line cannot be executed
    │   ├── ConfigError                  2   the run file is wrong; holds every problem found
    │   ├── PromptTooLongError           2   a prompt leaves no room for its answer in a model
    │   └── RunInUseError                2   another process has the run; wait until it has ended
    ├── DataError                        3   a data file cannot be used; names file and line
    ├── EnvironmentProblem               4   the machine lacks something, or the run does not fit
    ├── TrainingError                    5   training went wrong: not finite, diverged, no memory
    ├── GateError                        6   a quality gate did not pass
    ├── IntegrityError                   7   a file differs from its manifest
    ├── PluginError                      8   a plugin is missing, broken, ambiguous, or raised
    └── RunStopped                 75|130|143   a limit or a signal ended the run; it can be resumed

The number is the exit code of the command line. It is 75 after a limit, and 128 and the number of
the signal otherwise: 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, 138 after SIGUSR1.
A reader that goes away (``| head``) changes no code: the command ends quietly, with the code of its
work. A command whose only result is its text ends with 4 if stdout could not be written, as on a
full disk. ``run`` and ``resume`` end with the code of the last event of the run, whatever happens
to stdout and stderr: the run folder has the results. A run without a last event has failed.
A message is one lower-case sentence, ``where: what is wrong, got what``, without a full stop;
``hint`` is the next thing to do.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class TunesmithError(Exception):
    """Base class: ``except TunesmithError`` catches all reported errors, and no bugs."""

    exit_code = 1
    will_repeat = False
    """True if a run that is resumed with the same options fails in the same way."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TunesmithError):
    """The command line, or a folder that it names, cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One problem of a run file: its key, a description, and a hint if there is one."""

    where: str
    what: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(UsageError):
    """A run file has problems; all of them are listed, so that one edit can fix them."""

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems), hint=hint)


class RunInUseError(UsageError):
    """Another process works on the run; all other errors of a run folder stay when it has ended."""


class PromptTooLongError(UsageError):
    """A prompt, with the answer that is scored or may be generated, is longer than the context.

    ``prompts`` are those of the call that are too long, so that a caller can name their rows.
    """

    def __init__(self, message: str, prompts: Sequence[Any], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.prompts = tuple(prompts)


class DataError(TunesmithError):
    """A data file cannot be used.

    ``where`` is ``file:line`` if the line is known; ``skipped`` are the rows that are the reason.
    """

    exit_code = 3

    def __init__(
        self, where: str, what: str, *, hint: str | None = None, skipped: Sequence[Any] = ()
    ) -> None:
        super().__init__(f"{where}: {what}", hint=hint)
        self.where, self.what = where, what
        self.skipped = skipped


class EnvironmentProblem(TunesmithError):
    """The machine lacks something: memory, disk space, a library, a model."""

    exit_code = 4


class TrainingError(TunesmithError):
    """Training failed: a loss that is not finite, divergence, out of memory."""

    exit_code = 5
    will_repeat = True


class GateError(TunesmithError):
    """A quality gate of the run file did not pass."""

    exit_code = 6


class IntegrityError(TunesmithError):
    """A file differs from what its manifest recorded."""

    exit_code = 7


class PluginError(TunesmithError):
    """A plugin is missing, broken or ambiguous, or raised an exception."""

    exit_code = 8


class RunStopped(TunesmithError):
    """A signal or a limit ended the run after a step; ``tunesmith resume`` continues it.

    ``job.emit`` raises it inside the technique, which lets it pass.
    """

    def __init__(self, reason: str, *, exit_code: int = 75) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class TunesmithWarning(UserWarning):
    """A warning of tunesmith; the project's tests turn it into an error."""


def warn_deprecated(what: str, instead: str, *, since: str, stacklevel: int = 2) -> None:
    """Warn that a plugin uses a part of the plugin API that goes in two minor releases.

    Args:
        since: the release of tunesmith that deprecates it, such as ``0.2``.
        stacklevel: 2 is the line that calls the caller of this function.
    """
    major, minor = map(int, since.split(".")[:2])
    text = (
        f"{what} is deprecated since tunesmith {since}, and goes in {major}.{minor + 2}: {instead}"
    )
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)
