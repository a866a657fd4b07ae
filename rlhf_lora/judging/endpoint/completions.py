"""`chat/completions`: what is sent for a question, and what a reply says. No network here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.questions import Question

TOP_LOGPROBS = (20, 5, 0)
"""How many of the likeliest tokens are asked for: the most that OpenAI gives, what smaller servers give, none."""
LEAST_MASS = 0.5
"""Less probability than this on the choices together: the model was about to say something else."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request: read, and written."""

    tokens_in: int
    tokens_out: int

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server's body says; `broken` is what is no reply of `chat/completions` at all."""

    kind: Literal["text", "refusal", "unreadable", "broken"]
    text: str = ""
    probabilities: Mapping[str, float] | None = None
    reason: str = ""


def request_body(question: Question, settings: EndpointSettings, top_logprobs: int) -> dict[str, Any]:
    """The body of a request. What `settings.body` names wins; a null there leaves a name out."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": turn["role"], "content": turn["content"]} for turn in question.messages],
        "temperature": question.temperature,
        "max_tokens": question.max_tokens,
    }
    if question.choices and top_logprobs:
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    return {name: value for name, value in {**body, **settings.body}.items() if value is not None}


def key_of(body: Mapping[str, Any], question: Question, host: str) -> str:
    """SHA-256 of everything that decides an answer and how it is read, as hex digits: what an answer is known by."""
    told = {"request": body, "choices": question.choices, "host": host, "versions": dict(question.versions)}
    return hashlib.sha256(canonical(told).encode()).hexdigest()


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def estimate(question: Question, body: Mapping[str, Any]) -> Usage:
    """What a question may cost at most, near enough: a token for 3 bytes and 8 for each turn; all that may be written."""
    written = body.get("max_tokens") or body.get("max_completion_tokens") or question.max_tokens
    return Usage(_tokens(question, 3) + 8 * len(question.messages), int(written))


def too_long(question: Question, context: int | None) -> bool:
    """Longer than the model's context even at 6 bytes a token, so that nothing is refused that might have fitted."""
    return context is not None and _tokens(question, 6) + question.max_tokens > context


def read(reply: Mapping[str, Any], question: Question) -> Reply:
    """Read a reply, whatever it holds."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return Reply("broken", reason="the reply has no choices")
    choice, message = choices[0], choices[0].get("message")
    ended = choice.get("finish_reason")
    if not isinstance(message, dict):
        return Reply("broken", reason="the reply has no message")
    if isinstance(refused := message.get("refusal"), str) and refused:
        return Reply("refusal", reason=f"the model refused: {refused[:200]}")
    if ended == "content_filter":
        return Reply("refusal", reason="the server's content filter stopped the answer")
    content = message.get("content")
    text = content if isinstance(content, str) else ""
    empty = not text.strip()
    if ended == "length" and (empty or not question.choices):
        where = (
            "before the answer began: the model thinks first, so give it more (judge.body)"
            if empty
            else "in the middle"
        )
        return Reply("unreadable", reason=f"cut off at its limit of tokens, {where}")
    if empty:
        return Reply("unreadable", reason="the answer is empty")
    return Reply("text", text, _probabilities(choice.get("logprobs"), question.choices))


def usage(reply: Mapping[str, Any]) -> Usage | None:
    """What a reply says it cost; None where it does not."""
    told = reply.get("usage")
    if not isinstance(told, Mapping):
        return None
    counts = [told.get("prompt_tokens"), told.get("completion_tokens", 0)]
    if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 40 for count in counts):
        return None
    return Usage(*counts)


def _tokens(question: Question, bytes_each: int) -> int:
    size = sum(len(turn["content"].encode("utf-8", "replace")) for turn in question.messages)
    return math.ceil(size / bytes_each)


# --- probabilities ----------------------------------------------------------------------------------------------------


def _probabilities(logprobs: Any, choices: Sequence[str]) -> dict[str, float] | None:
    """Of the choices, at the first token that is not white space; None where the reply does not tell them."""
    if not choices or not isinstance(logprobs, Mapping) or not isinstance(places := logprobs.get("content"), list):
        return None
    for place in places:
        likeliest = _likeliest(place)
        if likeliest is None:
            return None
        if str(place.get("token", "")).strip():
            return shared_out(likeliest, choices)
    return None


def _likeliest(place: Any) -> list[tuple[str, float]] | None:
    if not isinstance(place, Mapping) or not isinstance(top := place.get("top_logprobs"), list):
        return None
    found = []
    for entry in top:
        token, value = (entry.get("token"), entry.get("logprob")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if math.isnan(value) or value > 1e-3:
            return None
        found.append((token, math.exp(value)))
    return found


def shared_out(likeliest: Sequence[tuple[str, float]], choices: Sequence[str]) -> dict[str, float] | None:
    """Probabilities of tokens given to the choices that they are, or that they alone begin, and made to sum to 1.

    None where less than half of it is theirs, or where a token is one choice and begins another (`1` of `1` and `10`,
    unless the longer one stands there as a token of its own).
    """
    tokens = {token.strip() for token, _ in likeliest}
    mass = dict.fromkeys(choices, 0.0)
    for token, probability in likeliest:
        word = token.strip()
        begun = [choice for choice in choices if word and choice.startswith(word)]
        longer = [choice for choice in begun if choice != word and choice not in tokens]
        if word in mass:
            if longer:
                return None
            mass[word] += probability
        elif len(begun) == 1:
            mass[begun[0]] += probability
    total = math.fsum(mass.values())
    return {choice: value / total for choice, value in mass.items()} if total >= LEAST_MASS else None
