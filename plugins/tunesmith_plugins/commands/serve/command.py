"""``tunesmith serve``: an OpenAI-compatible server for the models of a run."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from weakref import WeakKeyDictionary

import click

from tunesmith import api
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.install import install_extra
from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, pass_state, trust_option
from tunesmith_plugins.commands.serve.limits import Limits

LIBRARIES = ("starlette", "uvicorn", "prometheus_client")
DEFAULTS = Limits()


@click.command("serve")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
    help="Port to listen on; 0 picks a free one.",
)  # fmt: skip
@click.option(
    "--model", "wanted", multiple=True, type=click.Choice(["tuned", "base", "winner"]),
    help="Model to serve. Default: all models of the run. Repeatable.",
)  # fmt: skip
@click.option(
    "--extensions", type=click.Path(path_type=Path), metavar="FILE",
    help="TOML file with a table for each plugin that chooses models or observes answers.",
)  # fmt: skip
@click.option(
    "--token-env", metavar="NAME",
    help="Environment variable with the bearer token that clients must send. By default, a token "
    "is generated if other machines can reach the server.",
)  # fmt: skip
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME",
    help="Additional Host header to accept, such as a proxy's name. Repeatable.",
)  # fmt: skip
@click.option(
    "--slots", type=click.IntRange(1, 256), default=DEFAULTS.slots, show_default=True,
    help="Number of answers to generate at the same time, per model.",
)  # fmt: skip
@click.option(
    "--queue", type=click.IntRange(0, 100_000), default=DEFAULTS.queue, show_default=True,
    help="Number of requests that may wait, per model; further ones get status 503.",
)  # fmt: skip
@click.option(
    "--max-tokens", type=click.IntRange(1), default=DEFAULTS.new_tokens, show_default=True,
    help="Maximum tokens per answer.",
)  # fmt: skip
@click.option(
    "--max-prompt-tokens", type=click.IntRange(1), default=DEFAULTS.prompt_tokens,
    show_default=True, help="Maximum tokens per prompt.",
)  # fmt: skip
@click.option(
    "--max-body-bytes", type=click.IntRange(100), default=DEFAULTS.body_bytes, show_default=True,
    help="Maximum size of a request body, in bytes.",
)  # fmt: skip
@click.option(
    "--timeout", "seconds", type=click.FloatRange(0, min_open=True), default=DEFAULTS.seconds,
    show_default=True, help="Time limit of a request, in seconds.",
)  # fmt: skip
@click.option(
    "--drain", "drain_seconds", type=click.FloatRange(0), default=DEFAULTS.drain_seconds,
    show_default=True, help="Seconds to finish open requests after a stop signal.",
)  # fmt: skip
@trust_option
@common_options
@pass_state
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    host: str,
    port: int,
    wanted: tuple[str, ...],
    extensions: Path | None,
    token_env: str | None,
    allowed_hosts: tuple[str, ...],
    slots: int,
    queue: int,
    max_tokens: int,
    max_prompt_tokens: int,
    max_body_bytes: int,
    seconds: float,
    drain_seconds: float,
) -> None:
    """Serve the models of a run as an OpenAI-compatible API, with a chat page.

    RUN is the run folder. Requests name the model: tuned, base, or winner (the baseline that the
    verdict found sufficient). Without `temperature`, answers are greedy, as in the evaluation.
    After SIGTERM or Ctrl-C, open requests are finished first.
    """
    require_libraries()
    limits = Limits(
        body_bytes=max_body_bytes,
        prompt_tokens=max_prompt_tokens,
        new_tokens=max_tokens,
        slots=slots,
        queue=queue,
        seconds=seconds,
        drain_seconds=drain_seconds,
    )
    from tunesmith_plugins.commands.serve.app import build_app
    from tunesmith_plugins.commands.serve.engine import Runners
    from tunesmith_plugins.commands.serve.extensions import open_extensions
    from tunesmith_plugins.commands.serve.guard import is_loopback
    from tunesmith_plugins.commands.serve.images import make_image_reader
    from tunesmith_plugins.commands.serve.model_thread import ModelThread
    from tunesmith_plugins.commands.serve.run_models import (
        find_served_policies,
        list_models,
        open_engines,
    )
    from tunesmith_plugins.commands.serve.server import Server, listen, serve
    from tunesmith_plugins.commands.serve.service import Service

    folder, plan, catalog = api.load_run(run, files=state.files, disabled=state.disabled)
    used = open_extensions(catalog, extensions) if extensions else []
    names = list_models(folder, wanted)
    token = read_token(token_env, needs_token=not is_loopback(host))
    bound = listen(host, port)  # Bind first, to fail before the models are loaded.
    runners: Runners = WeakKeyDictionary()
    engines = open_engines(folder, plan, names, slots=slots, extensions=used, runners=runners)
    policies, read_image = find_served_policies(folder), make_image_reader(plan)
    service = Service(ModelThread(engines), limits, used, policies, read_image, runners)
    hosts = {name.lower() for name in ("localhost", host, *allowed_hosts)}
    app = build_app(service, names=hosts, token=token)
    address = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"

    def show() -> None:
        show_start(address, list(engines), folder.path, token, token_env)

    serve(Server(app, service, show), bound)
    if (
        service.thread.is_alive
    ):  # a long call keeps the model thread busy; Python cannot exit normally
        sys.stdout.flush()
        os._exit(0)


def require_libraries() -> None:
    """Raise an error if one of the web libraries is not installed.

    Raises:
        EnvironmentProblem: a library is missing.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"serve needs packages that are not installed: {', '.join(missing)}",
            hint=install_extra("serve"),
        )


def read_token(variable: str | None, *, needs_token: bool) -> str | None:
    """Return the token that requests need (from the variable or generated).

    The result is None if requests need no token.

    Raises:
        UsageError: the variable is not set.
    """
    if variable is None:
        return secrets.token_hex(24) if needs_token else None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise UsageError(
            f"--token-env: the environment variable {variable} is not set",
            hint=f"export {variable}=$(openssl rand -hex 24)",
        )
    return token


def show_start(
    address: str, names: Sequence[str], run: Path, token: str | None, variable: str | None
) -> None:
    """Print the address, the chat page and example commands."""
    render.print_text(f"serving {', '.join(names)} at {address}")
    if token is not None and variable is None:
        render.print_text(f"token (shown only once): {token}")
    render.print_note(f"chat page: {address}/")
    body = {"model": names[0], "messages": [{"role": "user", "content": "Hello"}]}
    shown = f"${variable}" if variable else "TOKEN"
    key = f' -H "Authorization: Bearer {shown}"' if token else ""
    render.print_note(
        f"\ntry it:\n  curl {address}/v1/chat/completions"
        f" -H 'Content-Type: application/json'{key} -d {shlex.quote(json.dumps(body))}"
    )
    folder = render.shell_path(run)
    render.print_note(
        "\nfor many users, export the model to a production engine:\n"
        f"  tunesmith export {folder} --to gguf --quantize q8_0 && "
        f"llama-server -m {folder}/export/gguf/model-q8_0.gguf --jinja --temp 0\n"
        f"  tunesmith export {folder} --to vllm  # prints the vllm serve command\n"
    )
