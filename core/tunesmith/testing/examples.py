"""Sample records of the kit: eight of each kind, few enough for a model to memorize."""

from __future__ import annotations

from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    ToolCall,
    UnpairedPreference,
)

PAIRS = (
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Greece", "Athens"),
    ("Norway", "Oslo"),
    ("Japan", "Tokyo"),
    ("Peru", "Lima"),
    ("Kenya", "Nairobi"),
)

COMPLETIONS = tuple(
    Completion(source=f"kit:{n}", prompt=f"{country}?", completion=capital)
    for n, (country, capital) in enumerate(PAIRS, 1)
)
CHATS = tuple(
    Chat(
        source=f"kit:{n}",
        messages=(
            Message("system", "Name the capital."),
            Message("user", country),
            Message("assistant", capital),
            Message("user", "Are you sure?"),
            Message("assistant", f"Yes, {capital}"),
        ),
    )
    for n, (country, capital) in enumerate(PAIRS, 1)
)
TEXTS = tuple(
    Text(source=f"kit:{n}", text=f"The capital of {country} is {capital}.")
    for n, (country, capital) in enumerate(PAIRS, 1)
)
PREFERENCES = tuple(
    Preference(
        source=f"kit:{n}",
        prompt=(Message("user", f"{country}?"),),
        chosen=capital,
        rejected="Nowhere",
    )
    for n, (country, capital) in enumerate(PAIRS, 1)
)
UNPAIRED_PREFERENCES = tuple(
    UnpairedPreference(
        source=f"kit:{n}",
        prompt=(Message("user", f"{country}?"),),
        completion=capital if n % 2 else "Nowhere",
        label=bool(n % 2),
    )
    for n, (country, capital) in enumerate(PAIRS, 1)
)
OBJECTS = tuple(
    Completion(
        source=f"kit:{n}",
        prompt=f"{country} as JSON?",
        completion=f'{{"country": "{country}", "capital": {{"name": "{capital}", "rank": {n}}}}}',
    )
    for n, (country, capital) in enumerate(PAIRS, 1)
)
NUMBERS = tuple(
    Completion(
        source=f"kit:{n}",
        prompt=f"What is {n} times 1,000?",
        completion=f"{n} times 1,000 is {n},000.\n#### {n},000",
    )
    for n in range(1, 9)
)
TOOL_CALLS = tuple(
    Chat(
        source=f"kit:{n}",
        messages=(
            Message("user", f"Weather in {capital}?"),
            Message(
                "assistant", "", tool_calls=(ToolCall("get_weather", f'{{"city": "{capital}"}}'),)
            ),
        ),
    )
    for n, (_, capital) in enumerate(PAIRS, 1)
)
LABELS = tuple(
    Completion(
        source=f"kit:{n}", prompt=f"Is {n} odd or even?", completion="odd" if n % 2 else "even"
    )
    for n in range(1, 25)
)
EXAMPLES_BY_KIND: dict[type[Record], tuple[Record, ...]] = {
    Completion: COMPLETIONS,
    Chat: CHATS,
    Text: TEXTS,
    Preference: PREFERENCES,
    UnpairedPreference: UNPAIRED_PREFERENCES,
}
"""Eight records of each kind, the simplest kind first."""
