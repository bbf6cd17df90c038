"""Chat templates in the formats of published model families, and what each one can express.

The templates are short versions of their own: they render the format that a family documents, with
its special tokens, its treatment of system prompts, tools and reasoning, and its refusals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PLAIN = "{text}"
TAGGED = "<think>\n{reasoning}\n</think>\n\n{content}"


@dataclass(frozen=True)
class Family:
    """A template, and by hand what follows from its format."""

    source: str
    bos: str = ""
    eos: str = "<|im_end|>"
    end: str = ""
    """Text of the end of an answer; empty: the EOS token, which no template prints."""
    lead: str = ""
    """The text that the model generates in front of an answer without reasoning."""
    reasoned: str = TAGGED
    """The text that it generates for an answer with reasoning."""
    trims: bool = False
    """True if the template trims the text of answers."""
    separate: tuple[str, ...] = ()
    """Conversations that become one example per answer."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Conversations that are refused, with a part of the reason."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    date_format: str = ""
    """The way it prints today's date; empty: it prints none."""


def by_role(first: str = "", prompt: str = "", **roles: tuple[str, str] | str) -> str:
    """Return a template with fixed text around the content of each role.

    A role that is not named is refused, one with a text instead of a pair with that message.
    """
    cases = []
    for role, around in roles.items():
        if isinstance(around, str):
            cases.append((role, f"{{{{ raise_exception({around!r}) }}}}"))
        else:
            cases.append((role, f"{{{{ {around[0]!r} + m.content + {around[1]!r} }}}}"))
    return by_case(first, prompt, cases)


def by_case(first: str, prompt: str, cases: list[tuple[str, str]]) -> str:
    """Return a template with a piece of a template for each role."""
    branches = "".join(f"{{% elif m.role == {role!r} %}}{piece}" for role, piece in cases)
    return (
        first + "{% for m in messages %}" + branches.replace("{% elif", "{% if", 1) + "{% else %}"
        "{{ raise_exception('unknown role ' + m.role) }}{% endif %}{% endfor %}"
        + f"{{% if add_generation_prompt %}}{{{{ {prompt!r} }}}}{{% endif %}}"
    )  # fmt: skip


def piece(before: str, after: str = "", then: str = "") -> str:
    """Return the piece of a template that prints a message's content, through filters ``then``."""
    return f"{{{{ {before!r} + m.content{then} + {after!r} }}}}"


def each(roles: str, before: str, after: str) -> Any:
    """Return the same text around the content of each role; ``ROLE`` in it is its name."""
    return {role: (before.replace("ROLE", role), after) for role in roles.split()}


def chatml(tool: str = "tool", sep: str = "\n", after: str = "<|im_end|>\n") -> str:
    return by_role(
        prompt=f"<|im_start|>assistant{sep}",
        **each("system user assistant", f"<|im_start|>ROLE{sep}", after),
        tool=(f"<|im_start|>{tool}{sep}", after),
    )


ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}"
)
NO_SYSTEM = {
    "system": "System role not supported",
    "system-turns": "System role not supported",
}
NO_TOOL = {"tool": "unknown role tool"}
NOT_ALTERNATING = dict.fromkeys(("system", "system-turns", "tool"), "roles must alternate")
LAST_USER = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
LLAMA3_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
LLAMA3_CASES = [
    ("user", piece(LLAMA3_HEADER.format("user"), "<|eot_id|>", " | trim")),
    ("assistant", piece(LLAMA3_HEADER.format("assistant"), "<|eot_id|>", " | trim")),
    ("tool", piece(LLAMA3_HEADER.format("ipython"), "<|eot_id|>", " | tojson")),
]
LLAMA3_PROMPT = LLAMA3_HEADER.format("assistant")
LLAMA31_SYSTEM = (
    "{{ bos_token }}DATE{% if messages[0].role == 'system' %}"
    "{% set s = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: ' + date_string + '\n\n' + s + '<|eot_id|>' }}"
)
LLAMA32_DATE = (
    "{% if date_string is not defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
)
GRANITE = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|start_of_role|>system<|end_of_role|>Today\\'s Date: '"
    " + strftime_now('%B %d, %Y') + '.\nYou are Granite.<|end_of_text|>\n' }}{% endif %}"
    + by_role(
        prompt="<|start_of_role|>assistant<|end_of_role|>",
        **each(
            "system user assistant tool",
            "<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>\n",
        ),
    )
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "chatml": Family(chatml(), end="<|im_end|>"),
    "llama-2": Family(
        by_case(
            "{% if messages[0].role == 'system' %}"
            "{% set s = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
            "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}",
            "",
            [
                ("user",
                 "{{ bos_token + '[INST] ' + (s if loop.first else '') + m.content | trim"
                 " + ' [/INST]' }}"),
                ("assistant", "{{ ' ' + m.content | trim + ' ' + eos_token }}"),
            ],
        ),
        bos="<s>", eos="</s>", end=" </s>", lead=" ", reasoned=" " + TAGGED, trims=True,
        refused=NO_TOOL,
    ),
    "llama-3": Family(
        by_case("{{ bos_token }}", LLAMA3_PROMPT, [
            *LLAMA3_CASES,
            ("system", LLAMA3_CASES[0][1].replace("user", "system")),
        ]),
        bos="<s>", eos="<|end_of_text|>", end="<|eot_id|>", trims=True,
    ),
    "llama-3.1": Family(
        by_case(
            LLAMA31_SYSTEM.replace(
                "DATE",
                "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}"
                "{% endif %}",
            ),
            LLAMA3_PROMPT, LLAMA3_CASES,
        ),
        bos="<s>", eos="<|eot_id|>", end="<|eot_id|>", trims=True,
    ),
    "llama-3.2": Family(
        by_case(LLAMA31_SYSTEM.replace("DATE", LLAMA32_DATE), LLAMA3_PROMPT, LLAMA3_CASES),
        bos="<s>", eos="<|eot_id|>", end="<|eot_id|>", trims=True, date_format="%d %b %Y",
    ),
    "mistral-v1": Family(
        ALTERNATE
        + by_role("{{ bos_token }}", user=("[INST] ", " [/INST]"), assistant=("", "</s>")),
        bos="<s>", eos="</s>", end="</s>", refused=NOT_ALTERNATING,
    ),
    "mistral-v3": Family(  # the system prompt is in the last question
        LAST_USER + by_case("{{ bos_token }}", "", [
            ("system", ""),
            ("user",
             "{{ '[INST] ' + (messages[0].content + '\n\n' if loop.index0 == ns.last and "
             "messages[0].role == 'system' else '') + m.content + '[/INST]' }}"),
            ("assistant", "{{ ' ' + m.content + eos_token }}"),
            ("tool", "{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"),
        ]),
        bos="<s>", eos="</s>", end="</s>", lead=" ", reasoned=" " + TAGGED,
        separate=("system-turns",),
    ),
    "mistral-tekken": Family(
        by_case(
            "{{ bos_token }}{% if messages[0].role != 'system' %}{{ '[SYSTEM_PROMPT]Today is '"
            " + strftime_now('%Y-%m-%d') + '.[/SYSTEM_PROMPT]' }}{% endif %}",
            "",
            [
                ("system", "{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"),
                ("user", "{{ '[INST]' + m.content + '[/INST]' }}"),
                ("assistant", "{{ m.content + eos_token }}"),
                ("tool", "{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}"),
            ],
        ),
        bos="<s>", eos="</s>", end="</s>", date_format="%Y-%m-%d",
    ),
    "gemma": Family(
        by_case("{{ bos_token }}", "<start_of_turn>model\n", [
            ("system", "{{ raise_exception('System role not supported') }}"),
            ("user", piece("<start_of_turn>user\n", "<end_of_turn>\n", " | trim")),
            ("assistant", piece("<start_of_turn>model\n", "<end_of_turn>\n", " | trim")),
        ]),
        bos="<s>", eos="</s>", end="<end_of_turn>", trims=True, refused={**NO_SYSTEM, **NO_TOOL},
    ),
    "gemma-3": Family(
        by_case(
            "{{ bos_token }}{% if messages[0].role == 'system' %}"
            "{% set s = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
            "{% else %}{% set s = '' %}{% endif %}",
            "<start_of_turn>model\n",
            [
                ("user",
                 "{{ '<start_of_turn>user\n' + (s if loop.first else '') + m.content | trim"
                 " + '<end_of_turn>\n' }}"),
                ("assistant", piece("<start_of_turn>model\n", "<end_of_turn>\n", " | trim")),
            ],
        ),
        bos="<s>", eos="</s>", end="<end_of_turn>", trims=True, refused=NO_TOOL,
    ),
    "phi-3": Family(  # EOS after the last answer; a system prompt is dropped
        by_role(
            prompt="<|assistant|>\n", user=("<|user|>\n", "<|end|>\n"),
            assistant=("<|assistant|>\n", "<|end|>\n"),
        ).replace("{% else %}{{ raise", "{% elif m.role == 'system' %}{% else %}{{ raise")
        + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        eos="<|endoftext|>", end="<|end|>",
        refused={
            **NO_TOOL,
            "system": "skips a message", "system-turns": "skips a message",
        },
    ),
    "phi-4": Family(chatml(sep="<|im_sep|>", after="<|im_end|>"), end="<|im_end|>"),
    "qwen2.5": Family(
        "{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        + chatml(tool="user"),
        end="<|im_end|>",
    ),
    "zephyr": Family(
        by_role(prompt="<|assistant|>\n", **each("system user assistant", "<|ROLE|>\n", "</s>\n")),
        eos="</s>", end="</s>", refused=NO_TOOL,
    ),
    "vicuna": Family(
        by_role("{{ bos_token }}", "ASSISTANT:", system=("", " "), user=("USER: ", " "),
                assistant=("ASSISTANT: ", "</s>")),
        bos="<s>", eos="</s>", end="</s>", lead=" ", reasoned=" " + TAGGED, refused=NO_TOOL,
    ),
    "alpaca": Family(  # no end token: EOS is added
        by_role(prompt="### Response:\n", system=("", "\n\n"), user=("### Instruction:\n", "\n\n"),
                assistant=("### Response:\n", "\n\n")),
        eos="</s>", refused=NO_TOOL,
    ),
    "command-r": Family(
        by_role("{{ bos_token }}", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            system=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            user=("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            assistant=("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            tool=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ),
        bos="<s>", eos="<|END_OF_TURN_TOKEN|>", end="<|END_OF_TURN_TOKEN|>",
    ),
    "olmo": Family(
        by_role("{{ bos_token }}", "<|assistant|>\n", system=("<|system|>\n", "\n"),
                user=("<|user|>\n", "\n"), assistant=("<|assistant|>\n", "<|endoftext|>\n")),
        bos="<|endoftext|>", eos="<|endoftext|>", end="<|endoftext|>", refused=NO_TOOL,
    ),
    "falcon": Family(
        by_role(prompt="\n\nAssistant:", system=("", ""), user=("\n\nUser: ", ""),
                assistant=("\n\nAssistant: ", "")),
        eos="<|endoftext|>", lead=" ", reasoned=" " + TAGGED, refused=NO_TOOL,
    ),
    "smollm2": Family(
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
        "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}" + chatml(),
        end="<|im_end|>",
    ),
    "granite-3": Family(
        GRANITE, eos="<|end_of_text|>", end="<|end_of_text|>", date_format="%B %d, %Y"
    ),
    "yi": Family(
        by_role(
            prompt="<|im_start|>assistant\n",
            **each("system user assistant", "<|im_start|>ROLE\n", "<|im_end|>\n"),
        ),
        end="<|im_end|>", refused=NO_TOOL,
    ),
    "internlm2": Family(
        "{{ bos_token }}" + chatml(tool="environment"), bos="<s>", end="<|im_end|>"
    ),
    "minicpm": Family(
        by_role(prompt="<AI>", system=("", ""), user=("<用户>", "<AI>"), assistant=("", "</s>"))
        .replace("{% if add_generation_prompt %}{{ '<AI>' }}{% endif %}", ""),
        bos="<s>", eos="</s>", end="</s>", refused=NO_TOOL,
    ),
    "glm-4": Family(  # the next role ends an answer; EOS is added
        by_role("[gMASK]<sop>", "<|assistant|>", system=("<|system|>\n", ""),
                user=("<|user|>\n", ""), assistant=("<|assistant|>\n", ""),
                tool=("<|observation|>\n", "")),
        eos="<|endoftext|>", lead="\n", reasoned="\n" + TAGGED,
    ),
    "chatglm3": Family(
        by_role("[gMASK]<sop>", "<|assistant|>\n", system=("<|system|>\n ", ""),
                user=("<|user|>\n ", ""), assistant=("<|assistant|>\n ", ""),
                tool=("<|observation|>\n ", "")),
        eos="</s>", lead=" ", reasoned=" " + TAGGED,
    ),
    "openchat": Family(
        by_role("{{ bos_token }}", "GPT4 Correct Assistant:", system=("", "<|end_of_turn|>"),
                user=("GPT4 Correct User: ", "<|end_of_turn|>"),
                assistant=("GPT4 Correct Assistant: ", "<|end_of_turn|>")),
        bos="<s>", eos="<|end_of_turn|>", end="<|end_of_turn|>", lead=" ", reasoned=" " + TAGGED,
        refused=NO_TOOL,
    ),
    "starchat": Family(
        by_role(prompt="<|assistant|>", **each("system user assistant", "<|ROLE|>\n", "<|end|>\n")),
        eos="<|endoftext|>", end="<|end|>", lead="\n", reasoned="\n" + TAGGED, refused=NO_TOOL,
    ),
    "nemotron": Family(
        by_role(prompt="<extra_id_1>Assistant\n", system=("<extra_id_0>System\n", "\n\n"),
                user=("<extra_id_1>User\n", "\n"), assistant=("<extra_id_1>Assistant\n", "\n"),
                tool=("<extra_id_1>Tool\n", "\n")),
        eos="</s>",
    ),
    "exaone": Family(
        by_role(prompt="[|assistant|]", system=("[|system|]", "[|endofturn|]\n"),
                user=("[|user|]", "\n"), assistant=("[|assistant|]", "[|endofturn|]\n")),
        eos="[|endofturn|]", end="[|endofturn|]", refused=NO_TOOL,
    ),
    "hermes": Family(
        "{{ bos_token }}" + by_case("", "<|im_start|>assistant\n", [
            *[(r, piece(f"<|im_start|>{r}\n", "<|im_end|>\n"))
              for r in ("system", "user", "assistant")],
            ("tool", piece("<|im_start|>tool\n<tool_response>\n",
                           "\n</tool_response><|im_end|>\n")),
        ]),
        bos="<s>", end="<|im_end|>",
    ),
}  # fmt: skip
"""The families by name."""
