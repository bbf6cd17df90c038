"""The exceptions that tunesmith raises on purpose, with their exit codes.

::

    TunesmithError                       1   base class, never raised itself
    ├── UsageError                       2   the command line cannot be executed
    │   ├── ConfigError                  2   the run file is wrong; lists every problem
    │   ├── PromptTooLongError           2   a prompt leaves no room for the model's answer
    │   └── RunInUseError                2   another process is using the run; wait for it to end
    ├── DataError                        3   a data file cannot be used; names file and line
    ├── EnvironmentProblem               4   the machine lacks something, or the run does not fit
    ├── TrainingError                    5   training failed: not finite, diverged, out of memory
    ├── GateError                        6   an exit criterion in the run file was not met
    ├── IntegrityError                   7   a file differs from its manifest
    ├── PluginError                      8   a plugin is missing, broken, ambiguous, or raised
    └── RunStopped                 75|130|143   a limit or a signal ended the run; it can be resumed

The command line exits with the number shown. RunStopped exits with 75 after a limit, and with 128
plus the signal's number after a signal: 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, 138
after SIGUSR1.

A failure to print does not change the exit code of ``run`` and ``resume``. They exit with the code
of the run's last event, because the run folder has the results. A run without a last event has
failed. If the reader of a command's output goes away (``| head``), the command ends quietly with
its own code. A command whose only result is its text exits with 4 if it cannot write to stdout, for
example to a full disk.

A message is one lower-case sentence without a full stop: ``where: what is wrong, got what``.
``hint`` tells the user what to do next.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class TunesmithError(Exception):
    """Base class of all expected errors; bugs raise other exceptions."""

    exit_code = 1
    will_repeat = False
    """True if resuming the run with the same options would fail in the same way."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TunesmithError):
    """The command line, or a folder named in it, is wrong."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One problem in a run file: its key, a description, and an optional hint."""

    where: str
    what: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(UsageError):
    """A run file is wrong; the message lists all problems, so that one edit can fix them."""

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems), hint=hint)


class RunInUseError(UsageError):
    """Another process is using the run folder. Unlike other usage errors, this is temporary."""


class PromptTooLongError(UsageError):
    """A prompt plus the answer to score or generate is longer than the model's context.

    ``prompts`` are the prompts of the call that are too long, so that a caller can name their rows.
    """

    def __init__(self, message: str, prompts: Sequence[Any], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.prompts = tuple(prompts)


class DataError(TunesmithError):
    """A data file cannot be used.

    ``where`` is ``file:line`` if the line is known. ``skipped`` lists the rows that caused the
    error.
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
    """Training failed: the loss is not finite, training diverged, or memory ran out."""

    exit_code = 5
    will_repeat = True


class GateError(TunesmithError):
    """The run did not meet an exit criterion of its run file.

    ``tunesmith run --strict`` adds two criteria: no warnings before training, and the verdict
    FINE-TUNE.
    """

    exit_code = 6


class IntegrityError(TunesmithError):
    """A file differs from what its manifest recorded."""

    exit_code = 7


class PluginError(TunesmithError):
    """A plugin is missing, broken or ambiguous, or raised an exception."""

    exit_code = 8


class RunStopped(TunesmithError):
    """A signal or a limit ended the run after a step; ``tunesmith resume`` continues it.

    ``job.emit`` raises it inside the technique, which must not catch it.
    """

    def __init__(self, reason: str, *, exit_code: int = 75) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class TunesmithWarning(UserWarning):
    """A warning from tunesmith. The project's tests turn it into an error."""


def warn_deprecated(what: str, instead: str, *, since: str, stacklevel: int = 2) -> None:
    """Warn that a plugin uses a deprecated part of the plugin API.

    Args:
        what: the deprecated part. It is removed two minor releases after ``since``.
        instead: what to use instead.
        since: the tunesmith release that deprecates it, such as ``0.2``.
        stacklevel: 2 names the line that calls the caller of this function.
    """
    major, minor = map(int, since.split(".")[:2])
    text = (
        f"{what} is deprecated since tunesmith {since} and will be removed in "
        f"{major}.{minor + 2}: {instead}"
    )
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)
