"""The table ``[regulated]``, and the policy file that it names."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tunesmith.config.problems import convert_problems
from tunesmith.errors import ConfigError, UsageError
from tunesmith.offers import TableOffer
from tunesmith.options import DataPath, Options, from_table

Role = Literal["start", "promote", "export", "delete"]


class RegulatedOptions(Options):
    """Table ``[regulated]``."""

    policy: DataPath | None = Field(
        None, description="Policy file with keys, roles and retention periods. Unset: no profile."
    )


REGULATED: TableOffer[Any] = TableOffer(
    name="regulated",
    summary="audit log, signatures, roles and retention periods of a policy file",
    config=RegulatedOptions,
)


class Roles(Options):
    """Accounts that have each role. ``@name`` is a group; an empty list is nobody."""

    start: list[str] = Field([], description="May start and resume runs.")
    promote: list[str] = Field([], description="May approve a run's model for export.")
    export: list[str] = Field([], description="May export and push promoted models.")
    delete: list[str] = Field([], description="May delete rows, checkpoints and runs.")


class PolicyOptions(Options):
    """The content of a policy file. Paths are relative to its folder."""

    log: str = Field("audit/log.jsonl", description="The audit log.")
    head: str = Field("audit/head.json", description="Copy of the log's last hash.")
    key: str = Field("audit/key.pem", description="Private elliptic-curve key, as PEM.")
    public_key: str = Field("audit/key.pub", description="Public key, as PEM.")
    plugins: list[str] = Field([], description="Distributions whose plugins a run may use.")
    four_eyes: bool = Field(False, description="Nobody promotes a run that they started.")
    keep_runs: int | None = Field(None, ge=1, description="Days to keep a run after its end.")
    keep_checkpoints: int | None = Field(None, ge=1, description="Days to keep checkpoints.")
    hold: list[str] = Field([], description="Names of runs that must not be deleted.")
    roles: Roles = Field(Roles.model_validate({}), description="Accounts that have each role.")


class Policy:
    """A policy file: its options and SHA-256, and its paths as absolute paths."""

    def __init__(self, path: Path, options: PolicyOptions, sha256: str) -> None:
        self.path, self.options, self.folder = path, options, path.parent
        self.sha256 = sha256
        names = (options.log, options.head, options.key, options.public_key)
        self.log, self.head, self.key, self.public_key = (self.folder / name for name in names)

    def relative(self, path: Path) -> str:
        """Return a path as the audit log contains it, so that the project can be moved."""
        return os.path.relpath(path.resolve(), self.folder)

    def require_role(self, role: Role) -> None:
        """Raise a UsageError if the account of this process does not have a role."""
        account = current_account()
        if not is_member(account, getattr(self.options.roles, role)):
            what = f"{self.path}: account {account} does not have the role {role}"
            raise UsageError(what, hint=f"ask an account in roles.{role}, or the policy's owner")


def read_policy(path: Path) -> Policy:
    """Read a policy file; raise a UsageError if it is not valid, or others can change it."""
    path = path.resolve()
    try:
        content = path.read_bytes()
        options = from_table(PolicyOptions, tomllib.loads(content.decode()))
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path}: the policy cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise ConfigError([*convert_problems(error, "", PolicyOptions)]) from None
    except ValueError as error:
        raise UsageError(f"{path}: the policy is not valid TOML: {error}") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        hint = f"chmod go-w {path}"
        raise UsageError(f"{path}: other accounts can change the policy", hint=hint)
    return Policy(path, options, hashlib.sha256(content).hexdigest())


def current_account() -> str:
    """Return the account of this process, as the operating system knows it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container
        return str(os.getuid())


def is_member(account: str, names: list[str]) -> bool:
    """Return True if the account, or a group of this process, is among the names."""
    own = {os.getgid(), *os.getgroups()}
    groups = {f"@{group.gr_name}" for group in grp.getgrall() if group.gr_gid in own}
    return account in names or not groups.isdisjoint(names)
