"""Write the results of the task with a known optimum as a table, and its curves as an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

NAMES = {
    "sft": "fine-tuned, the initial model of the others",
    "ppo": "PPO against the reward model",
    "grpo": "GRPO against the reward model",
    "rloo": "RLOO against the reward model",
    "dpo": "DPO on the pairs",
    "kto": "KTO on the pairs",
}
COLORS = {"ppo": "#1b6ca8", "grpo": "#c0392b", "rloo": "#2e8b57"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 320, 200, 46, 28, 70


def results_table(result: dict[str, Any]) -> str:
    """Return Markdown: the gold reward by training method, then the reward model."""
    summary = result["summary"]
    lines = ["| | gold reward | above fine-tuned |", "|---|---|---|"]
    for name, title in NAMES.items():
        one = summary[name]
        gain = "" if name == "sft" else _interval(one["gain"], "+.3f")
        lines.append(f"| {title} | {_interval(one['gold'], '.3f')} | {gain} |")
    return "\n".join([*lines, "", reward_table(result)])


def reward_table(result: dict[str, Any]) -> str:
    """Return the accuracy of reward model and rule, for sampled choices and over their noise."""
    summary = result["summary"]
    rows = {
        "the sampled choices": ("accuracy", "rule_accuracy", "below_rule"),
        "expected over the noise of the choices": ("expected_accuracy", "ceiling", "below_ceiling"),
    }
    lines = [
        "| reward model, pairs that no run saw | accuracy | of the rule | difference |",
        "|---|---|---|---|",
    ]
    for title, keys in rows.items():
        cells = " | ".join(_interval(summary[key], ".3f") for key in keys)
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines)


def svg(result: dict[str, Any]) -> str:
    """Return two panels over steps, means over seeds: the gold reward, and the KL divergence."""
    panels = (
        ("gold_reward", "gold reward, held out"),
        ("kl", "nats from the reference, per answer"),
    )
    width = LEFT + len(panels) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + HEIGHT + 60}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (metric, title) in enumerate(panels):
        parts += _panel(result, metric, title, LEFT + number * (WIDTH + GAP))
    for number, (name, color) in enumerate(COLORS.items()):
        x, y = LEFT + number * 80, TOP + HEIGHT + 46
        parts.append(f'<rect x="{x}" y="{y - 8}" width="16" height="3" fill="{color}"/>')
        parts.append(f'<text x="{x + 22}" y="{y - 3}">{name.upper()}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(result: dict[str, Any], metric: str, title: str, left: int) -> list[str]:
    lines = {name: _mean_curve(result["experiments"], name, metric) for name in COLORS}
    points = [point for line in lines.values() for point in line]
    if not points:
        return []
    max_step = max(x for x, _ in points)
    low, high = min(0.0, *(y for _, y in points)), max(y for _, y in points)
    span = (high - low) or 1.0

    def to_pixels(x: float, y: float) -> tuple[float, float]:
        return left + x / max_step * WIDTH, TOP + HEIGHT - (y - low) / span * HEIGHT

    parts = [f'<text x="{left}" y="{TOP - 10}" font-weight="bold">{title}</text>']
    parts.append(
        f'<path d="M{left} {TOP}V{TOP + HEIGHT}H{left + WIDTH}" fill="none" stroke="#888"/>'
    )
    for value in (low, low + span / 2, high):
        y = to_pixels(0, value)[1]
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for step in (0, max_step // 2, max_step):
        x = to_pixels(step, low)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{step}</text>'
        )
    for name, line in lines.items():
        points_text = " ".join("{:.1f},{:.1f}".format(*to_pixels(x, y)) for x, y in line)
        parts.append(
            f'<polyline points="{points_text}" fill="none" '
            f'stroke="{COLORS[name]}" stroke-width="2"/>'
        )
    return parts


def _mean_curve(
    experiments: Sequence[dict[str, Any]], name: str, metric: str
) -> list[tuple[float, float]]:
    """Return the mean at each step over the seeds that have a value there."""
    values: dict[int, list[float]] = {}
    for experiment in experiments:
        for point in experiment["curves"].get(name, []):
            if metric in point:
                values.setdefault(point["step"], []).append(point[metric])
    return [(step, fmean(at_step)) for step, at_step in sorted(values.items())]


def write(result: dict[str, Any], page: Path) -> None:
    """Write table and curves between the page's markers; the text around them stays."""
    picture = page.with_suffix(".svg")
    picture.write_text(svg(result), encoding="utf-8")
    text = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    inner = f"{results_table(result)}\n\n![curves]({picture.name})"
    page.write_text(f"{before}{BEGIN}\n{inner}\n{END}{after}", encoding="utf-8")


BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def _interval(interval: dict[str, Any], form: str) -> str:
    low, high = format(interval["low"], form), format(interval["high"], form)
    return f"{interval['value']:{form}} [{low}, {high}]"
