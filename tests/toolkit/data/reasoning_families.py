"""Chat templates of families with reasoning, in the formats that they document."""

from __future__ import annotations

from typing import Any

from tests.toolkit.data.template_families import LAST_USER, Family, by_case, piece

QWEN3 = (
    LAST_USER + "{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content %}"
    "{% set r = '' %}{% if m.reasoning_content is string %}{% set r = m.reasoning_content %}"
    "{% elif '</think>' in content %}"
    "{% set r = content.split('</think>')[0].split('<think>')[-1] %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last and (loop.last or r) %}"
    "{{ '<think>\n' + r.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{% else %}{{ content }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\nOPEN' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
EACH_TURN = ("turns", "system-turns", "tool", "reasoning-turns")
"""Conversations of several turns, in families whose last turn looks different."""
DEEPSEEK_CASES = [
    ("system", "{{ m.content }}"),
    ("user", "{{ '<｜User｜>' + m.content }}"),
    ("tool", "{{ '<｜tool▁outputs▁begin｜>' + m.content + '<｜tool▁outputs▁end｜>' }}"),
]
DEEPSEEK: dict[str, Any] = {
    "bos": "<s>",
    "eos": "<｜end▁of▁sentence｜>",
    "end": "<｜end▁of▁sentence｜>",
}
R1_ANSWER = "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}"
HARMONY = (
    "{{ '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
    + by_case("", "<|start|>assistant", [
        ("system", piece("<|start|>developer<|message|># Instructions\n\n", "<|end|>")),
        ("user", "{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}"),
        ("tool", "{{ '<|start|>tool<|message|>' + m.content | tojson + '<|end|>' }}"),
        ("assistant",
         "{% if m.thinking and loop.last %}{{ '<|start|>assistant<|channel|>analysis<|message|>'"
         " + m.thinking + '<|end|>' }}{% endif %}"
         "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
         "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"),
    ])
)  # fmt: skip
SMOLLM3 = (
    "{% set think = enable_thinking if enable_thinking is defined else true %}"
    "{{ '<|im_start|>system\n## Metadata\n\nToday Date: ' + strftime_now('%d %B %Y') + '\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    + by_case("", "<|im_start|>assistant\n", [
        ("system", ""),
        ("user", "{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"),
        ("tool", "{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"),
        ("assistant",
         "{{ '<|im_start|>assistant\n' + ('' if think else '<think>\n\n</think>\n')"
         " + m.content.lstrip('\n') + '<|im_end|>\n' }}"),
    ])
    + "{% if add_generation_prompt and not think %}{{ '<think>\n\n</think>\n' }}{% endif %}"
)  # fmt: skip
REASONING_FAMILIES: dict[str, Family] = {
    "qwen3": Family(
        QWEN3.replace("OPEN", ""), end="<|im_end|>", lead="<think>\n\n</think>\n\n",
        separate=EACH_TURN,
    ),
    "qwen3 without thinking": Family(
        QWEN3.replace("OPEN", ""), end="<|im_end|>", kwargs={"enable_thinking": False},
        separate=EACH_TURN,
        refused=dict.fromkeys(("reasoning", "reasoning-turns"), "prompt ends with </think>"),
    ),
    "qwen3-thinking-2507": Family(
        QWEN3.replace("OPEN", "<think>\n"), end="<|im_end|>", lead="\n</think>\n\n",
        reasoned="{reasoning}\n</think>\n\n{content}", separate=EACH_TURN,
    ),
    "qwq": Family(  # reasoning stays in the last turn only, and the prompt opens it
        by_case("", "<|im_start|>assistant\n<think>\n", [
            *[(r, piece(f"<|im_start|>{r}\n", "<|im_end|>\n")) for r in ("system", "user", "tool")],
            ("assistant",
             "{{ '<|im_start|>assistant\n' + (m.content if loop.last else "
             "m.content.split('</think>')[-1].lstrip('\n')) + '<|im_end|>\n' }}"),
        ]),
        end="<|im_end|>", lead="\n</think>\n\n", reasoned="{reasoning}\n</think>\n\n{content}",
        separate=EACH_TURN,
    ),
    "deepseek-v3": Family(
        by_case("{{ bos_token }}", "<｜Assistant｜>", [
            *DEEPSEEK_CASES, ("assistant", "{{ '<｜Assistant｜>' + m.content + eos_token }}"),
        ]),
        **DEEPSEEK,
    ),
    "deepseek-v3.1": Family(  # the prompt closes reasoning unless `thinking` is set
        by_case("{{ bos_token }}", "<｜Assistant｜>", [
            *DEEPSEEK_CASES,
            ("assistant", R1_ANSWER.replace("<｜Assistant｜>", "<｜Assistant｜></think>")),
        ]) + "{% if add_generation_prompt %}{{ '<think>' if thinking else '</think>' }}{% endif %}",
        **DEEPSEEK,
        refused=dict.fromkeys(("reasoning", "reasoning-turns"), "prompt ends with </think>"),
    ),
    "deepseek-v3.1 thinking": Family(
        by_case("{{ bos_token }}", "<｜Assistant｜>", [
            *DEEPSEEK_CASES,
            ("assistant", R1_ANSWER.replace("<｜Assistant｜>", "<｜Assistant｜></think>")),
        ]) + "{% if add_generation_prompt %}{{ '<think>' if thinking else '</think>' }}{% endif %}",
        **DEEPSEEK, lead="</think>", reasoned="{reasoning}</think>{content}", separate=EACH_TURN,
        kwargs={"thinking": True},
    ),
    "deepseek-r1": Family(  # drops all reasoning; the prompt does not open it
        by_case("{{ bos_token }}", "<｜Assistant｜>", [*DEEPSEEK_CASES, ("assistant", R1_ANSWER)]),
        **DEEPSEEK, separate=("reasoning-turns",),
    ),
    "deepseek-r1-distill": Family(  # drops all reasoning; the prompt opens it
        by_case("{{ bos_token }}", "<｜Assistant｜><think>\n",
                [*DEEPSEEK_CASES, ("assistant", R1_ANSWER)]),
        **DEEPSEEK, lead="\n</think>\n\n", reasoned="{reasoning}\n</think>\n\n{content}",
        separate=EACH_TURN,
    ),
    "smollm3": Family(SMOLLM3, end="<|im_end|>", date_format="%d %B %Y"),
    "smollm3 without thinking": Family(
        SMOLLM3, end="<|im_end|>", date_format="%d %B %Y", kwargs={"enable_thinking": False},
        refused=dict.fromkeys(("reasoning", "reasoning-turns"), "prompt ends with </think>"),
    ),
    "gpt-oss": Family(
        HARMONY, eos="<|return|>", end="<|return|>", lead="<|channel|>final<|message|>",
        reasoned="<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant"
        "<|channel|>final<|message|>{content}",
        separate=EACH_TURN, date_format="%Y-%m-%d",
    ),
}  # fmt: skip
"""The families by name."""
