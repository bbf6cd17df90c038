"""A server keeps nothing of the requests that it has answered."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from openai import BadRequestError, OpenAI
from serving import Running, run_server

from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.job import Channel, ChoiceInput, Job, Piece, StreamedText
from tunesmith_plugins.commands.serve.service import OpenRequest
from tunesmith_torch.generation.continuous import RunningSequence
from tunesmith_torch.generation.kv_cache import DecodingCache

KINDS = (
    ApiError, Channel, ChoiceInput, DecodingCache, Job, OpenRequest, Piece, RunningSequence,
    StreamedText,
)  # fmt: skip
"""The parts of a request on its way."""
REQUESTS = 12


def send_many(running: Running, rounds: int) -> None:
    """Send requests of any length and kind from four clients, the same in every round."""
    with running.client() as client, ThreadPoolExecutor(4) as pool:
        for _ in range(rounds):
            list(pool.map(lambda number: send(client, number), range(REQUESTS)))
            running.wait_until_idle()


def send(client: OpenAI, number: int) -> None:
    rng = random.Random(number)
    text = " ".join(rng.choices(("card", "refund", "ticket", "two"), k=rng.randint(1, 60)))
    tokens = rng.randint(1, 12)
    create = client.chat.completions.create
    messages = [{"role": "user", "content": text}]
    if number % 6 == 0:
        with pytest.raises(BadRequestError):
            create(model="tuned", messages=messages, temperature=9)  # type: ignore[call-overload]
    elif number % 6 == 1:  # it leaves after the first token
        with create(model="tuned", messages=messages, max_tokens=200, stream=True) as stream:  # type: ignore[call-overload]
            next(iter(stream))
    else:
        more = {"logprobs": True, "top_logprobs": 3} if number % 6 == 2 else {}
        sampled = {"temperature": 1.0, "seed": number, "n": 2} if number % 6 == 3 else {}
        create(model="tuned", messages=messages, max_tokens=tokens, **more, **sampled)  # type: ignore[call-overload]


def count_live() -> dict[str, int]:
    """Return the live objects by kind, and the tensors with their bytes."""
    gc.collect()
    found = Counter({"tensors": 0, "bytes": 0, **{kind.__name__: 0 for kind in KINDS}})
    storages = set[int]()
    for thing in gc.get_objects():
        if isinstance(thing, KINDS):
            found[type(thing).__name__] += 1
        elif type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            found["tensors"] += 1
            found["bytes"] += 0 if storage.data_ptr() in storages else storage.nbytes()
            storages.add(storage.data_ptr())
    return dict(found)


def find_growth(before: dict[str, int]) -> dict[str, int]:
    """Return what there is more of than before, also two seconds later.

    The model's thread may be at the end of its last step, after the last answer was sent. What an
    earlier test of this process left may be gone meanwhile.
    """
    grown: dict[str, int] = {}
    for _ in range(40):
        grown = {kind: count for kind, count in count_live().items() if count > before[kind]}
        if not grown:
            break
        time.sleep(0.05)
    return grown


def test_ten_times_the_requests_leave_as_much_as_the_first_ones() -> None:
    with run_server() as running:
        send_many(running, 1)
        before = count_live()
        send_many(running, 10)
        grown = find_growth(before)
    assert not grown
