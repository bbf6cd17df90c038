"""Chat templates in Jinja, and templates of Ollama in Go with the types that Ollama passes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tunesmith.records import Message
from tunesmith_torch.data.message_fields import build_message_fields, build_tool_fields

GO = """package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

type property struct {
	Type        any    `json:"type,omitempty"`
	Description string `json:"description,omitempty"`
}

type parameters struct {
	Type       string              `json:"type"`
	Required   []string            `json:"required,omitempty"`
	Properties map[string]property `json:"properties"`
}

type function struct {
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Parameters  parameters `json:"parameters"`
}

type tool struct {
	Type     string   `json:"type"`
	Function function `json:"function"`
}

type arguments map[string]any

type call struct {
	Function struct {
		Name      string
		Arguments arguments
	}
}

type message struct {
	Role, Content string
	ToolCalls     []call
}

type conversation struct {
	Messages []*message
	Tools    []tool
}

func (f function) String() string  { return toJSON(f) }
func (a arguments) String() string { return toJSON(a) }

func toJSON(value any) string {
	text, err := json.Marshal(value)
	check(err)
	return string(text)
}

func main() {
	var input struct {
		Template      string
		Conversations []conversation
	}
	check(json.NewDecoder(os.Stdin).Decode(&input))
	functions := template.FuncMap{"json": toJSON}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(input.Template)
	check(err)
	texts := make([]string, len(input.Conversations))
	for i, chat := range input.Conversations {
		var out strings.Builder
		check(parsed.Execute(&out, map[string]any{"Messages": chat.Messages, "Tools": chat.Tools}))
		texts[i] = out.String()
	}
	output := map[string]any{"Texts": texts, "Mark": findMark(parsed.Tree.Root)}
	check(json.NewEncoder(os.Stdout).Encode(output))
}

// findMark returns the first plain text behind the first test of .ToolCalls alone, before any
// action: with it, Ollama recognizes a call in an answer.
func findMark(node parse.Node) string {
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			if mark := findMark(child); mark != "" {
				return mark
			}
		}
	case *parse.RangeNode:
		return findMark(n.List)
	case *parse.IfNode:
		for _, command := range n.Pipe.Cmds {
			for _, argument := range command.Args {
				if field, ok := argument.(*parse.FieldNode); ok && field.Ident[0] == "ToolCalls" {
					if text, ok := n.List.Nodes[0].(*parse.TextNode); ok {
						return string(text.Text)
					}
					return "none"
				}
			}
		}
		return findMark(n.List)
	}
	return ""
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
"""


def build_program(folder: Path) -> Path:
    """Compile the program that renders conversations with a template."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    (folder / "main.go").write_text(GO)
    command = ["go", "build", "-o", "render", "main.go"]
    subprocess.run(command, cwd=folder, check=True, env={"HOME": str(folder), "PATH": "/usr/bin"})
    return folder / "render"


def run_go(program: Path, template: str, chats: Sequence[Sequence[Message]]) -> list[str]:
    """Return the conversations as the program renders them."""
    return list(run_program(program, template, chats)["Texts"])


def find_mark(program: Path, template: str) -> str:
    """Return the text by which Ollama recognizes calls of tools; empty if it has none."""
    return str(run_program(program, template, [])["Mark"])


def run_program(program: Path, template: str, chats: Sequence[Sequence[Message]]) -> dict[str, Any]:
    """Run the program."""
    asked = json.dumps({"Template": template, "Conversations": [_to_go(chat) for chat in chats]})
    done = subprocess.run([program], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _to_go(chat: Sequence[Message]) -> dict[str, Any]:
    turns = [
        {
            "Role": message.role,
            "Content": message.text,
            "ToolCalls": [
                {"Function": {"Name": call.name, "Arguments": json.loads(call.arguments)}}
                for call in message.tool_calls
            ],
        }
        for message in chat
    ]
    return {"Messages": turns, "Tools": build_tool_fields(chat) or []}


def render_with(template: str, messages: Sequence[Message]) -> str:
    """Return a conversation as transformers renders it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(text: str) -> None:
        raise ValueError(text)

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = to_json
    return environment.from_string(template).render(
        messages=[build_message_fields(message, None, False) for message in messages],
        tools=build_tool_fields(messages),
        add_generation_prompt=True,
    )
