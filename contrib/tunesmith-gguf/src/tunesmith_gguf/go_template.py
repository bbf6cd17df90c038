"""Write turns in Ollama's template language, which is Go's ``text/template``."""

from __future__ import annotations

import json

from tunesmith_gguf.turns import ANSWER, ASSISTANT, CALL, START, TOOL, Pair, ToolTurns, Turns


def write_go(turns: Turns) -> str:
    """Return an Ollama template that renders the same text.

    Only the JSON of tool definitions and arguments differs, because Ollama writes it without
    spaces.
    """
    tools = turns.tools
    asked = [pair for pair in turns.between if pair[1] == ANSWER]
    written = [pair for pair in turns.between if pair[1] not in (ANSWER, CALL)]
    lines = [f'{{{{- $before := "{START}" }}}}']
    lines += ["{{- $tools := .Tools }}"] if tools else []
    lines += ["{{- range .Messages }}"]
    if tools:
        has_text = "or .Content" if (ASSISTANT, CALL) in turns.between else "and true"
        lines += [f"{{{{- if {has_text} (eq (len .ToolCalls) 0) }}}}"]
    lines += [_write_piece(turns, pair, f' (eq .Role "{pair[1]}")') for pair in written]
    lines += [_write_content(tools), "{{- $before = .Role }}"]
    lines += ["{{- end }}", *_write_calls(turns, tools)] if tools else []
    lines += ["{{- end }}", *(_write_piece(turns, pair) for pair in asked)]
    return "\n".join(lines)


def _write_piece(turns: Turns, pair: Pair, and_role: str = "") -> str:
    """Return the action that writes a pair's text, and trims white space around the action."""
    text = _quote(turns.between[pair])
    tools = turns.tools
    if tools and pair in tools.opening:
        opening = tools.opening[pair]
        parts = [
            f"{{{{ {_quote(opening.before)} }}}}",
            *([_write_definitions(tools, opening.between)] if opening.has_definitions else []),
            f"{{{{ {_quote(opening.after)} }}}}",
        ]
        text = f"{{{{ if $tools }}}}{''.join(parts)}{{{{ else }}}}{{{{ {text} }}}}{{{{ end }}}}"
    else:
        text = f"{{{{ {text} }}}}"
    return f'{{{{- if and (eq $before "{pair[0]}"){and_role} }}}}{text}{{{{- end }}}}'


def _write_definitions(tools: ToolTurns, between: str) -> str:
    definition = "{{ $tool.Function }}"
    if tools.with_type:
        definition = f'{{"type": "function", "function": {definition}}}'
    separator = f"{{{{ if $i }}}}{{{{ {_quote(between)} }}}}{{{{ end }}}}"
    return f"{{{{ range $i, $tool := $tools }}}}{separator}{definition}{{{{ end }}}}"


def _write_content(tools: ToolTurns | None) -> str:
    if tools is None or not tools.results_as_json:
        return "{{- .Content }}"
    result = f'{{{{- if eq .Role "{TOOL}" }}}}{{{{ json .Content }}}}'
    return f"{result}{{{{ else }}}}{{{{ .Content }}}}{{{{ end }}}}"


def _write_calls(turns: Turns, tools: ToolTurns) -> list[str]:
    """Return the actions that write the tool calls of a message.

    Ollama takes the first plain text after the test of ``.ToolCalls`` as the mark that starts a
    call. The mark must therefore be unquoted and directly follow that test, and an earlier test
    must not use the field alone.
    """
    mark = tools.mark
    first = [pair for pair in turns.between if pair[1] == CALL and pair[0] != CALL]
    parts = ["{{ .Function.Name }}", "{{ .Function.Arguments }}"]
    call = f"{{{{ {_quote(tools.middle)} }}}}".join(parts if tools.name_first else parts[::-1])
    again = turns.between.get((CALL, CALL), mark)
    return [
        "{{- if gt (len .ToolCalls) 0 }}",
        *(
            f'{{{{- if eq $before "{pair[0]}" }}}}'
            f"{{{{ {_quote(turns.between[pair].removesuffix(mark))} }}}}{{{{- end }}}}"
            for pair in first
        ),
        f"{{{{- if .ToolCalls }}}}{mark}{{{{ range $i, $call := .ToolCalls }}}}"
        f"{{{{ if $i }}}}{{{{ {_quote(again)} }}}}{{{{ end }}}}{call}{{{{ end }}}}{{{{ end }}}}",
        f'{{{{- $before = "{CALL}" }}}}',
        "{{- end }}",
    ]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # escaped as in Go
