"""Run one program and its tests within resource limits.

This file runs as a script in a separate process and is never imported. Standard input contains one
line of JSON with the limits and a secret. If the tests run to the end, the script writes the secret
to standard output, so a program that exits early does not pass its tests. The limits protect
against accidents in generated code, not against an attacker.
"""

import json
import os
import resource
import sys
import types
from importlib.machinery import SourceFileLoader
from socket import AF_UNIX

REFUSED = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
    "os.forkpty", "ctypes.", "pty.", "os.kill", "os.putenv", "urllib.", "ftplib.", "http.",
    "smtplib.", "webbrowser.", "shutil.rmtree", "signal.",
)  # fmt: skip
CHANGES_FILES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "os.utime", "shutil.",
)  # fmt: skip


def set_process_limits(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Set the resource limits of this process."""
    for name, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))


def refuse_access(folder: str) -> None:
    """Refuse network access, new processes, and changes to files outside ``folder``."""

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.__new__" and arguments[1] == AF_UNIX:
            return  # every event loop of asyncio has a pair of them; connecting is refused
        if event.startswith(REFUSED):
            raise PermissionError(f"the program called {event}, which the sandbox forbids")
        path: object = None
        if event == "open":
            flags = arguments[2]
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            path = arguments[0] if writes else None
        elif event.startswith(CHANGES_FILES):
            path = arguments[0]
        if isinstance(path, str | bytes):
            real = os.path.realpath(os.fsdecode(path))
            if os.path.commonpath([real, folder]) != folder and real != os.devnull:
                raise PermissionError(
                    "the program tried to change a file outside its working folder"
                )

    sys.addaudithook(audit)


def run_files(program: str, tests: str) -> None:
    """Run a program and its tests in one module.

    The program is imported, so its ``if __name__ == "__main__":`` block, which may read input or
    exit, does not run. The tests are the main program.
    """
    module = types.ModuleType("program")
    for name, path in (("program", program), ("__main__", tests)):
        module.__name__, module.__file__ = name, path
        sys.modules[name] = module
        SourceFileLoader(name, path).exec_module(module)


def main(program: str, tests: str) -> None:
    """Run a program with its tests within its limits, then write the secret."""
    options = json.loads(sys.stdin.readline())
    result = os.dup(1)
    with open(os.devnull, "r+b") as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)
    set_process_limits(options["cpu_seconds"], options["memory_bytes"], options["file_bytes"])
    sys.argv = [program]
    refuse_access(os.path.realpath(os.getcwd()))
    run_files(program, tests)
    os.write(result, options["secret"].encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
