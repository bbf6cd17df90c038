"""Results of the task with a known optimum as a table, and its curves as an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

NAMES = {
    "sft": "fine-tuned, where all others begin",
    "ppo": "PPO against the reward model",
    "grpo": "GRPO against the reward model",
    "rloo": "RLOO against the reward model",
    "dpo": "DPO on the pairs",
    "kto": "KTO on the pairs",
}
COLOURS = {"ppo": "#1b6ca8", "grpo": "#c0392b", "rloo": "#2e8b57"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 320, 200, 46, 28, 70


def table(result: dict[str, Any]) -> str:
    """Markdown: gold reward by way of learning, then the reward model."""
    found = result["summary"]
    lines = ["| | gold reward | above fine-tuned |", "|---|---|---|"]
    for name, title in NAMES.items():
        one = found[name]
        gain = "" if name == "sft" else _interval(one["gain"], "+.3f")
        lines.append(f"| {title} | {_interval(one['gold'], '.3f')} | {gain} |")
    return "\n".join([*lines, "", reward_table(result)])


def reward_table(result: dict[str, Any]) -> str:
    """The reward model beside what is possible: in the judge's own labels, and over its luck."""
    found = result["summary"]
    rows = {
        "the noisy judge's own choices": ("accuracy", "rule_accuracy", "below_rule"),
        "expected over the judge's luck": ("expected_accuracy", "ceiling", "below_ceiling"),
    }
    lines = [
        "| reward model, pairs that no run saw | right | possible | below |",
        "|---|---|---|---|",
    ]
    for title, keys in rows.items():
        cells = " | ".join(_interval(found[key], ".3f") for key in keys)
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines)


def svg(result: dict[str, Any]) -> str:
    """Two panels over steps, means over seeds: the rule (never trained on), and the divergence."""
    panels = (("gold", "gold reward, held out"), ("kl", "nats from the reference, per answer"))
    width = LEFT + len(panels) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + HEIGHT + 60}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (figure, title) in enumerate(panels):
        parts += _panel(result, figure, title, LEFT + number * (WIDTH + GAP))
    for number, (name, colour) in enumerate(COLOURS.items()):
        x, y = LEFT + number * 80, TOP + HEIGHT + 46
        parts.append(f'<rect x="{x}" y="{y - 8}" width="16" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 22}" y="{y - 3}">{name.upper()}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(result: dict[str, Any], figure: str, title: str, left: int) -> list[str]:
    lines = {name: _mean_curve(result["worlds"], name, figure) for name in COLOURS}
    points = [point for line in lines.values() for point in line]
    if not points:
        return []
    most_x = max(x for x, _ in points)
    low, high = min(0.0, *(y for _, y in points)), max(y for _, y in points)
    span = (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / most_x * WIDTH, TOP + HEIGHT - (y - low) / span * HEIGHT

    parts = [f'<text x="{left}" y="{TOP - 10}" font-weight="bold">{title}</text>']
    parts.append(
        f'<path d="M{left} {TOP}V{TOP + HEIGHT}H{left + WIDTH}" fill="none" stroke="#888"/>'
    )
    for value in (low, low + span / 2, high):
        y = place(0, value)[1]
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for step in (0, most_x // 2, most_x):
        x = place(step, low)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{step}</text>'
        )
    for name, line in lines.items():
        drawn = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>'
        )
    return parts


def _mean_curve(
    worlds: Sequence[dict[str, Any]], name: str, figure: str
) -> list[tuple[float, float]]:
    """Mean over the seeds that have a value at a step."""
    values: dict[int, list[float]] = {}
    for world in worlds:
        for look in world["curves"].get(name, []):
            if figure in look:
                values.setdefault(look["step"], []).append(look[figure])
    return [(step, fmean(found)) for step, found in sorted(values.items())]


def write(result: dict[str, Any], page: Path) -> None:
    """The table and the curves, between the page's own words where it has any."""
    picture = page.with_suffix(".svg")
    picture.write_text(svg(result), encoding="utf-8")
    text = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    inner = f"{table(result)}\n\n![curves]({picture.name})"
    page.write_text(f"{before}{BEGIN}\n{inner}\n{END}{after}", encoding="utf-8")


BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def _interval(interval: dict[str, Any], form: str) -> str:
    low, high = format(interval["low"], form), format(interval["high"], form)
    return f"{interval['value']:{form}} [{low}, {high}]"
