"""``tunesmith merge``: an adapter and its base model become one model folder."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.plan import Plan
from tunesmith.records import Prompt, last_exchange
from tunesmith.storage import RunFolder, lock
from tunesmith_torch.options.training import LoraOptions, QloraOptions

if TYPE_CHECKING:
    from tunesmith_torch.models.merging import Merging

PROMPTS = 64
"""Held-out prompts on which the merged model is compared with the trained one."""


@click.command("merge")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write. Default: RUN/merged."
)
@click.option(
    "--into",
    type=click.Choice(["dequantised", "original"]),
    help="Base weights of a quantised run: those that were trained on (default), or the original.",
)
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0),
    default=1e-3,
    show_default=True,
    help="Largest divergence of the merged model from the trained one, in nats.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    out: Path | None,
    into: Literal["dequantised", "original"] | None,
    max_kl: float,
    as_json: bool,
) -> None:
    """Fold the adapter of RUN into its base model and write an ordinary model folder.

    The folder is read back and compared with the trained model on held-out prompts before it is
    kept. Exit code 6 if they differ by more than --max-kl; nothing is written then.
    """
    place, plan, _ = api.reopen(run)
    adapter = _adapter(place, plan)
    how = _how(plan, into, max_kl)
    _, parts = execute.read_parts(plan)
    prompts: list[Prompt] = [last_exchange(r)[0] for r in islice(parts.heldout, PROMPTS)]
    from tunesmith_torch.models.merging import merge_adapter

    target = place.path / "merged" if out is None else out.expanduser().absolute()
    with lock(place.path):
        merged = merge_adapter(plan.found_model.fetch(), adapter, target, prompts, how)
    if as_json:
        result = {
            "schema": "tunesmith.merge/1",
            "path": str(merged.path),
            "kl_nats": merged.kl,
            "prompts": merged.prompts,
            "dtype": merged.dtype,
        }
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{merged.path}: {merged.dtype}, {merged.kl:.1e} nats from the trained model "
        f"(mean over {merged.prompts} prompts)"
    )


def _adapter(place: RunFolder, plan: Plan) -> Path:
    trained = execute.recorded(place).trained.get("")
    if trained is None:
        raise UsageError(
            f"{place.path}: the run has no trained model yet",
            hint=f"tunesmith resume {place.path} continues it",
        )
    if trained.format != "adapter" or not plan.technique.offer.promises.mergeable:
        raise UsageError(
            f"{place.path}: {plan.technique.offer.name} left no adapter that can be merged",
            hint=f"{place.path / trained.artifact} may be a whole model already",
        )
    return place.path / trained.artifact


def _how(plan: Plan, into: Literal["dequantised", "original"] | None, max_kl: float) -> Merging:
    """How the adapter was trained, from the plan."""
    from tunesmith_torch.models.merging import Merging
    from tunesmith_torch.models.quantization import Quantization
    from tunesmith_torch.runtime.device import pick_device, pick_precision

    options = plan.technique.config
    assert isinstance(options, LoraOptions)
    quantised = isinstance(options, QloraOptions)
    if into == "dequantised" and not quantised:
        raise UsageError("--into: the base of this run was not quantised", hint="leave --into out")
    device = pick_device(plan.run.device)
    return Merging(
        device=device,
        dtype=pick_precision(device, options.precision).dtype,
        quantization=Quantization.of(options) if isinstance(options, QloraOptions) else None,
        into=into or "dequantised",
        max_kl=max_kl,
    )
