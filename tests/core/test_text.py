"""Text for a terminal is escaped, stored text has no secrets, and numbers are formatted."""

from __future__ import annotations

import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.text import (
    format_bytes,
    format_count,
    format_duration,
    mask_personal_data,
    one_line,
    redact,
    redact_all,
    safe_text,
    suggest_name,
)

ESC, CSI, OSC, DCS = "\x1b", "\x1b[", "\x1b]", "\x1bP"
PAYLOADS = [
    # CSI: color, clear, move, hide, alternate screen, scroll region, report, resize, insert
    *(f"a{CSI}{tail}b" for tail in ("31m", "0m", "2J", "H", "999D", "?25l", "?1049h", "1;1r")),
    *(f"a{CSI}{tail}b" for tail in ("6n", "c", "8;1;1t", "21t", "4h", "38;2;1;2;3m", "K", "3J")),
    # OSC: title, hyperlink, clipboard, palette, icon, notification, working folder, iTerm file
    *(f"{OSC}{body}\x07" for body in ("0;owned", "8;;http://evil.example", "52;c;ZXZpbA==")),
    *(f"{OSC}{body}{ESC}\\" for body in ("4;1;rgb:00/00/00", "1;icon", "9;hello", "7;file:///")),
    f"{OSC}1337;File=name=YQ==:AAAA\x07",
    f"{OSC}8;;http://evil.example\x07click{OSC}8;;\x07",
    # DCS, APC, PM, SOS, character sets, reset, save, keypad
    *(f"{DCS}{body}{ESC}\\" for body in ("$q\"p", "+q544e", "1;1|17/17")),
    *(f"{ESC}{start}text{ESC}\\" for start in ("_", "^", "X")),
    *(f"{ESC}{tail}" for tail in ("c", "(0lqk", "7", "8", "=", ">", "#8", "%G")),
    # the same in C1
    "\x9b31mred", "\x9d0;title\x9c", "\x90q\x9c", "\x85next", "\x84", "\x8d", "\x9f\x9e\x98",
    # overwriting
    "error\rfine ", "secret\x08\x08\x08\x08\x08\x08public", "a\x0bb\x0cc", "\x07" * 50, "\x7f\x7f",
    # bidirectional controls
    "user\u202egpj.exe", "\u202aa\u202bb\u202c", "\u2066x\u2069", "\u2067y\u2068",
    "\u200ea\u200fb\u061c",
    "if admin\u202e \u2066// check\u2069 \u2066",
    # characters that are invisible or cannot be encoded
    "\ud83d", "a\udc80b", "\udfff\ud800", "nul\x00byte", "tag\U000e0041\U000e007f",
    "z\u200bw\u2060x\ufeff",
    "a\u200db\u200cc", "\u2028line\u2029", "h\u00adyphen", "\u3164\u115f\uffa0",
    "\ufe0f\ufe0fx\ufe00\ufe01",
    "v\U000e0100\U000e01ef", "w\U000e0080\U000e0fff", "\u034f\u180e\u2063", "\ufff9a\ufffab\ufffb",
]  # fmt: skip
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
UNCHANGED = [
    "plain text, with\ttab\nand newline",
    "é😀 ñ ü ß Ж 漢字 かな 한국어 ไทย ∑ € “quotes” — …",
    "العربية שלום हिन्दी",
    "👩‍🔬 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️‍🔥 👍🏽 🧑🏿‍🚀 ☺️ 1️⃣",
    "می‌خواهم",  # Persian with a zero-width non-joiner
    "क्‍ष श्री‌मान्",  # Hindi with both joiners
    r"C:\temp\x1b [bold]markup[/bold] :smile: {x} %s",
    "",
]

anything = st.text(
    st.one_of(
        st.characters(exclude_categories=()),
        st.sampled_from("ab\\\x1b\r\n\t\u200d\u200c\ufe0f\ufe00👩🔬❤क्می\u202e\ud800\U000e0041"),
    )
)
many_examples = settings(max_examples=400, deadline=None)


# --- escaped -------------------------------------------------------------------------------


def test_there_are_at_least_sixty_payloads() -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 60


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_payloads_are_escaped(payload: str) -> None:
    for text in (safe_text(payload), safe_text(payload, 40), one_line(payload)):
        assert not FORBIDDEN.search(text)
        text.encode("utf-8")
    if payload.isascii():
        shown = re.sub(r"\\x[0-9a-f]{2}", "", safe_text(payload))
        assert shown == FORBIDDEN.sub("", payload)
    assert safe_text(payload) != payload


def test_escapes_are_readable() -> None:
    text = "\x1b[1m \x9b \u202e \U000e0041 \ud83d \r"
    assert safe_text(text) == r"\x1b[1m \x9b \u202e \U000e0041 \ud83d \x0d"


@pytest.mark.parametrize("text", UNCHANGED)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert safe_text(text) == text


def test_joiners_outside_their_script_are_escaped() -> None:
    assert safe_text("pay\u200dpal\u200c") == r"pay\u200dpal\u200c"
    assert safe_text("👩\u200d") == r"👩\u200d"
    assert safe_text("\u200d👩") == r"\u200d👩"
    assert safe_text("x\ufe0f\ufe0f") == "x\ufe0f\\ufe0f"


@given(anything)
@many_examples
def test_safe_text_is_safe_and_idempotent_for_any_text(text: str) -> None:
    once = safe_text(text)
    assert not FORBIDDEN.search(once)
    once.encode("utf-8")
    assert safe_text(once) == once


@given(anything, st.integers(1, 20))
@many_examples
def test_a_limit_is_kept_and_idempotent(text: str, limit: int) -> None:
    once = safe_text(text, limit)
    assert len(once) <= limit
    assert not FORBIDDEN.search(once)
    assert safe_text(once, limit=limit) == once
    complete = safe_text(text)
    if len(complete) <= limit:
        assert once == complete
    else:
        assert once.endswith("…") and complete.startswith(once[:-1])
    line = one_line(text, limit)
    assert len(line) <= limit
    assert not re.search(r"[\t\n\r]", line)
    assert one_line(line, limit) == line


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="limit: must be at least 1, got 0"):
        safe_text("abc", 0)


def test_a_cut_leaves_no_joiner_at_the_end() -> None:
    assert safe_text("ab👩‍🔬cd", 5) == "ab👩…"
    assert safe_text("abcdef", 4) == "abc…"
    assert safe_text("abcd", 4) == "abcd"


def test_one_line_is_one_line() -> None:
    assert one_line("  a\n\n b\tc\r\nd\u2028e ") == "a b c d e"
    assert one_line("word " * 50, 12) == "word word w…"
    assert one_line(" " * 100_000 + "x", 10) == "…"
    assert one_line("\x1b[2J") == r"\x1b[2J"


@pytest.mark.parametrize(
    "unit",
    [
        "x",
        "\x1b",
        "a\x1b",
        "é\u202e",
        "👩\u200d",
        "\u200d",
        "a\u200d",
        "\ufe0f",
        "\ud800",
        " ",
        "\n",
    ],
)
def test_safe_text_takes_linear_time(unit: str) -> None:
    def seconds(length: int) -> float:
        """Return the time for all of it. Joiners take longest: each needs its neighbors."""
        text, times = unit * (length // len(unit)), []
        for _ in range(3):
            started = time.process_time()
            safe_text(text, 200)
            one_line(text)
            assert time.process_time() - started < 0.05
            started = time.process_time()
            safe_text(text)
            times.append(time.process_time() - started)
        return min(times)

    assert seconds(1_000_000) < 40 * seconds(100_000)  # a quadratic search: 100 times


# --- formatted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1_000, "1000 B"),
        (1_024, "1.0 KiB"),
        (999_949, "976.5 KiB"),
        (999_999, "976.6 KiB"),
        (1_048_575, "1.0 MiB"),
        (1_400_000_000, "1.3 GiB"),
        (-1_400_000_000, "-1.3 GiB"),
        (2 * 10**12, "1.8 TiB"),
        (5 * 10**18, "4,440.9 PiB"),
    ],
)
def test_format_bytes(n: int, text: str) -> None:
    assert format_bytes(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.42, "0.42 s"),
        (0.999, "1.0 s"),
        (4.2, "4.2 s"),
        (9.96, "10 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3_599.7, "1 h 00 min"),
        (11_220, "3 h 07 min"),
        (86_399, "1 d 00 h"),
        (183_600, "2 d 03 h"),
        (-125, "-2 min 05 s"),
        (math.nan, "unknown"),
        (math.inf, "unknown"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 1e7))
def test_durations_stay_below_the_next_unit(seconds: float) -> None:
    text = format_duration(seconds)
    assert not re.search(r"(?<!\.)\b60 (s|min)|\b24 h", text)
    assert math.isclose(_read(text), seconds, rel_tol=0.05, abs_tol=0.006)


def _read(text: str) -> float:
    scale = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
    parts = text.split()
    return sum(float(n) * scale[u] for n, u in zip(parts[::2], parts[1::2], strict=True))


def test_format_count() -> None:
    assert [format_count(n, "row") for n in (0, 1, 2, 1_234)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,234 rows",
    ]
    nouns = ("batch", "entry", "key", "box", "loss", "test row")
    assert [format_count(3, noun) for noun in nouns] == [
        "3 batches",
        "3 entries",
        "3 keys",
        "3 boxes",
        "3 losses",
        "3 test rows",
    ]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("rnak", "rank"),
        ("Rank", "rank"),
        ("ranks", "rank"),
        ("learnin_rate", "learning_rate"),
        ("learning-rate", "learning_rate"),
        ("learn", "learning_rate"),
        ("ephocs", "epochs"),
        ("batchsize", "batch_size"),
        ("lr", None),
        ("xyz", None),
        ("", None),
        ("-", None),
        ("rank", None),
        ("e", None),
    ],
)
def test_suggest_name(word: str, meant: str | None) -> None:
    assert suggest_name(word, ["rank", "learning_rate", "epochs", "batch_size", "alpha"]) == meant


def test_suggest_name_needs_an_unambiguous_prefix() -> None:
    assert suggest_name("max", ["max_length_of_text", "max_steps_of_run"]) is None
    assert suggest_name("word", []) is None
    started = time.process_time()
    suggest_name("x" * 100_000, [f"{'y' * 50}{i}" for i in range(500)])
    assert time.process_time() - started < 1


# --- secrets --------------------------------------------------------------------------------

# Assembled here, so that no secret scanner reports this file.
ALNUM = "aB3dE5fG7hJ9kL1mN0pQ2rS4tU6vW8xY"
SECRETS = {
    "hf_token": "hf_" + ALNUM + "zz",
    "openai_key": "sk-proj-" + ALNUM + "_" + ALNUM,
    "anthropic_key": "sk-ant-api03-" + ALNUM,
    "stripe_key": "sk_live_" + ALNUM[:24],
    "aws_key": "AKIA" + "IOSFODNN7EXAMPL3",
    "gcp_key": "AIza" + (ALNUM * 2)[:35],
    "github_token": "ghp_" + ALNUM + "1234",
    "gitlab_token": "glpat-" + ALNUM[:20],
    "slack_token": "xoxb-123456789012-" + ALNUM,
    "npm_token": "npm_" + ALNUM + "1234",
    "pypi_token": "pypi-" + "AgEIcHlwaS5vcmc" + ALNUM * 2,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0." + ALNUM,
}
MORE_SECRETS = [
    ("github_token", "github_pat_" + ALNUM + "_" + ALNUM),
    ("openai_key", "sk-" + ALNUM + ALNUM[:16]),
    ("aws_key", "ASIA" + "IOSFODNN7EXAMPL3"),
    ("slack_token", "xoxp-" + ALNUM),
]
ORDINARY = [
    "The risk-free rate is a task-oriented sk-learn-like estimator for everyone.",
    "See https://example.com:8080/path and write to someone@example.com.",
    "Install scikit-learn, then call hf_hub_download or hf_transfer from huggingface_hub.",
    "sk-learn-compatible-estimators-and-their-transformers are listed below.",
    "The PASSWORD field is required; the TOKEN is optional: both are described here.",
    "MAX_TOKENS=4096, EOS_TOKEN=</s>, PAD_TOKEN: <|endoftext|>",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b fixes the batch size",
    "550e8400-e29b-41d4-a716-446655440000 is the run's id",
    "Ratio 3:4@home is written like that; http://localhost:8000/@user too.",
    "git@github.com:owner/name.git and ssh://git@host:22/path are remotes",
    "loss=0.0123 lr=2e-4 tokens=123456789 seconds=12.5",
    "BEGIN PUBLIC KEY is not a secret, and neither is -----BEGIN CERTIFICATE-----.",
    "Bearer of bad news: the experiment failed.",
    "Ask Akia or Asia about the AKIA prefix; AKIAs are 20 characters.",
    "The tokenizer's special_token_map has bos_token and eos_token.",
    "AIza is how those keys begin, eyJ is how these do, xox is how others do.",
    "xox-games and npm_config_registry are names, npm_lifecycle_event is one more.",
    "pypi-publish and pypi-simple are packages on PyPI",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "Der Schlüssel liegt unter der Matte, das Passwort auf dem Zettel.",
]


@pytest.mark.parametrize(("kind", "secret"), [*SECRETS.items(), *MORE_SECRETS])
def test_tokens_are_redacted_in_any_context(kind: str, secret: str) -> None:
    for before, after in (
        ("", ""),
        ("the key ", " was used"),
        ('{"k": "', '"}'),
        ("k=", ","),
        ("(", ")."),
        (r"line\n", r"\n"),
        ("\x1b[31m", "\x1b[0m"),
        ("https://h/?k%3D", "&x=1"),
    ):
        assert redact(f"{before}{secret}{after}") == f"{before}[redacted:{kind}]{after}"


@pytest.mark.parametrize("label", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
def test_private_keys_are_redacted(label: str) -> None:
    body = "\n".join([ALNUM * 2] * 5)
    begin, end = f"-----BEGIN {label}PRIVATE KEY-----", f"-----END {label}PRIVATE KEY-----"
    assert redact(f"a {begin}\n{body}\n{end} b") == "a [redacted:private_key] b"
    assert redact(f"a {begin}\n{body}") == "a [redacted:private_key]"
    assert redact(f"{begin}\n{body}\n{end} mid {begin}{body}{end}").count("redacted") == 2


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://bob:s3cr3t@db:5432/x", "postgresql://bob:[redacted:password]@db:5432/x"),
        ("redis://:pw@host", "redis://:[redacted:password]@host"),
        ("https://u:p@ss:w@h/x@y", "https://u:[redacted:password]@h/x@y"),
        ("Authorization: Bearer " + ALNUM, "Authorization: Bearer [redacted:bearer]"),
        ("WANDB_API_KEY=" + "0123456789abcdef" * 2, "WANDB_API_KEY=[redacted:secret]"),
        ('"DB_PASSWORD": "hunter2hunter2"', '"DB_PASSWORD": "[redacted:secret]"'),
        (
            "secret_access_key = wJalr/K7+EXAMPLE",
            "secret_access_key = [redacted:secret]",
        ),
        (f"HF_TOKEN={SECRETS['hf_token']}", "HF_TOKEN=[redacted:hf_token]"),
        (f"https://u:{SECRETS['hf_token']}@h/x", "https://u:[redacted:hf_token]@h/x"),
        (f"Bearer {SECRETS['hf_token']}", "Bearer [redacted:hf_token]"),
    ],
)
def test_secrets_are_recognized_by_their_position(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize("sentence", ORDINARY)
def test_ordinary_sentences_are_not_redacted(sentence: str) -> None:
    assert redact(sentence) == sentence


def test_all_strings_of_a_value_are_redacted() -> None:
    secret, mark = SECRETS["hf_token"], "[redacted:hf_token]"
    value = {"a": [secret, 1, None, {secret: (f"x {secret}", True)}], "b": 2.5}
    assert redact_all(value) == {"a": [mark, 1, None, {mark: [f"x {mark}", True]}], "b": 2.5}


def test_redaction_is_idempotent() -> None:
    everything = " ".join(SECRETS.values()) + " pg://a:b@c HF_TOKEN=abcdefghij Bearer " + ALNUM
    once = redact(everything)
    assert redact(once) == once
    assert not any(secret in once for secret in SECRETS.values())
    assert once.count("[redacted:") == len(SECRETS) + 3


@given(st.text(st.sampled_from('aZ09:/@-_= ."[]\n'), max_size=60), st.sampled_from([*SECRETS]))
@settings(max_examples=200, deadline=None)
def test_redaction_is_idempotent_around_secrets(noise: str, kind: str) -> None:
    once = redact(f"{noise} {SECRETS[kind]} ://{noise} TOKEN={noise}")
    assert SECRETS[kind] not in once
    assert redact(once) == once


@pytest.mark.parametrize(
    "unit",
    ["a", "hf_", "sk-", "://a:", "eyJaaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "TOKEN=", "@"],
)
def test_redaction_takes_linear_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("a.jsonl:3 to jane.doe+x@mail.example.co.uk.", "a.jsonl:3 to j…@mail.example.co.uk."),
        ("card 4111 1111 1111 1111 ok", "card 41…11 ok"),
        ("5500-0000-0000-0004", "55…04"),
        ("pay DE89 3704 0044 0532 0130 00", "pay DE…00"),
        ("123-45-6789", "12…89"),
        ("key sk-ant-abcdefghijklmnopqrstuvwx", "key [redacted:anthropic_key]"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mask_personal_data(text) == masked == mask_personal_data(masked)


@pytest.mark.parametrize(
    "text", ["rows.jsonl:12345678 order 12345678", "2026-11-26 10:07:11", "a @ b.c", "1 of 2,345"]
)
def test_other_text_is_not_masked(text: str) -> None:
    assert mask_personal_data(text) == text
