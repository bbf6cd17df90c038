"""Write answers in the format of OpenAI's API, complete or streamed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith import __version__
from tunesmith_plugins.commands.serve.api_request import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from tunesmith_plugins.commands.serve.job import Piece, Scored, TokenScore
from tunesmith_plugins.commands.serve.service import OpenRequest
from tunesmith_plugins.commands.serve.tool_answers import (
    StreamedTurn,
    split_known_calls,
    write_calls,
)


def review_headers(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the header that states whether a person must check any choice of an answer."""
    found = [c["tunesmith"]["needs_review"] for c in answer["choices"] if "tunesmith" in c]
    return {"X-Tunesmith-Review": "needed" if any(found) else "not-needed"} if found else {}


class Responses:
    """Writes the answers to a request in the format of OpenAI's API."""

    def __init__(self, request: GenerationRequest, ticket: OpenRequest) -> None:
        self.request, self.ticket = request, ticket
        self._is_chat = isinstance(request, ChatRequest)
        self._head = {
            "id": ticket.id,
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": f"tunesmith-{__version__}",
        }
        self._object = "chat.completion" if self._is_chat else "text_completion"
        self._tools = request.tool_names if isinstance(request, ChatRequest) else frozenset()
        self._offsets: dict[int, int] = {}
        self._turns: defaultdict[int, StreamedTurn] = defaultdict(lambda: StreamedTurn(self._tools))

    def write_whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the complete answer, from the last piece of each choice."""
        choices = [self._choice(piece) for piece in sorted(pieces, key=lambda p: p.index)]
        return {**self._head, "object": self._object, "choices": choices, "usage": self._usage()}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": piece.index, "finish_reason": piece.finish_reason}
        if isinstance(self.request, CompletionRequest):
            return {**choice, "text": piece.text, "logprobs": self._logprobs(piece)}
        text, calls = split_known_calls(piece.text, self._tools)
        message: dict[str, Any] = {"role": "assistant", "refusal": None}
        message["content"] = text or (None if calls else "")
        if calls:
            message["tool_calls"] = write_calls(calls)
            choice["finish_reason"] = "tool_calls"
        choice |= self._review(piece)
        return {**choice, "message": message, "logprobs": self._logprobs(piece)}

    # ----------------------------------------------------------------- streams

    def write_first(self) -> Iterator[dict[str, Any]]:
        """Yield the first chunks of a stream: the role of each choice in a conversation."""
        if isinstance(self.request, ChatRequest):
            for job in self.ticket.jobs:
                content = (
                    None if self._tools else ""
                )  # An answer that consists of tool calls has no content.
                delta = {"role": "assistant", "content": content, "refusal": None}
                yield self._chunk(job.choice.index, delta, None, None)

    def write_piece(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Yield the chunks that a stream sends for one piece of an answer."""
        if isinstance(self.request, CompletionRequest):
            logprobs = self._logprobs(piece)
            yield self._chunk(piece.index, {"text": piece.text}, logprobs, piece.finish_reason)
            return
        is_last = piece.finish_reason is not None
        text, calls = self._turns[piece.index].update(piece.text, is_last)
        delta: dict[str, Any] = {} if text is None else {"content": text}
        if calls:
            delta["tool_calls"] = [{"index": i, **c} for i, c in enumerate(write_calls(calls))]
        if delta or (piece.scores and self.request.num_top is not None):
            yield self._chunk(piece.index, delta, self._logprobs(piece), None)
        if is_last:
            reason = "tool_calls" if calls else piece.finish_reason
            yield self._chunk(piece.index, {}, None, reason, self._review(piece))

    def write_last(self) -> Iterator[dict[str, Any]]:
        """Yield the last chunk of a stream: the usage, if requested."""
        if self.request.stream_options.include_usage:
            yield {**self._chunk_head(), "choices": [], "usage": self._usage()}

    def _chunk_head(self) -> dict[str, Any]:
        chunk = f"{self._object}.chunk" if self._is_chat else self._object
        return {**self._head, "object": chunk}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any, reason: str | None, review: Any = ()
    ) -> dict[str, Any]:
        content = {"delta": delta, **dict(review)} if self._is_chat else delta
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._chunk_head(), "choices": [choice]}
        return {**chunk, "usage": None} if self.request.stream_options.include_usage else chunk

    # ----------------------------------------------------------------- parts

    def _usage(self) -> dict[str, int]:
        read, written = self.ticket.prompt_tokens, self.ticket.completion_tokens
        total = read + written
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": total}

    def _review(self, piece: Piece) -> dict[str, Any]:
        """Return the field that states whether a person must check an answer, or no field."""
        policy, score = self.ticket.policy, piece.score
        if policy is None:
            return {}
        needed = score is None or policy.needs_review(score)
        return {"tunesmith": {"confidence": self.ticket.confidence(piece), "needs_review": needed}}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self.request.num_top is None:
            return None
        if isinstance(self.request, ChatRequest):
            return {"content": [_chat_score(score) for score in piece.scores], "refusal": None}
        offsets, end = [], self._offsets.get(piece.index, 0)
        for score in piece.scores:
            offsets.append(end)
            end += len(score.token[0])
        self._offsets[piece.index] = end
        return {
            "tokens": [score.token[0] for score in piece.scores],
            "token_logprobs": [score.token[1] for score in piece.scores],
            "top_logprobs": [dict(score.top) for score in piece.scores],
            "text_offset": offsets,
        }


def _chat_score(score: TokenScore) -> dict[str, Any]:
    return {**_chat_token(score.token), "top_logprobs": [_chat_token(t) for t in score.top]}


def _chat_token(scored: Scored) -> dict[str, Any]:
    token, logprob = scored
    # A token can be part of a character, whose bytes the text does not contain.
    data = None if "\ufffd" in token else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": logprob, "bytes": data}
