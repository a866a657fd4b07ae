"""One cheap question before anything long: what is wrong with key, model or address is told in words, with what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rlhf_lora import progress
from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.endpoint.completions import TOP_LOGPROBS, read, request_body
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.endpoint.wire import Failure, Wire
from rlhf_lora.judging.questions import Question

WITHIN_S = 10.0
"""A server that says no, says it within this; one that thinks is given `deadline`."""
PATIENCE_S, AGAIN_S = 5.0, 0.5
"""A hiccup is asked about again for so long, each time after so long."""
THINKS = (
    "if most verdicts come out unreadable: judge.body={reasoning_effort:none} (Ollama), "
    "judge.body={chat_template_kwargs:{enable_thinking:false}} (vLLM), or room to think: judge.body={max_tokens:2000}"
)
ENDS = "most addresses end in /v1"
HERE = {"localhost", "127.0.0.1", "::1"}
NOT_UNDERSTOOD = {400, 422, 501}
QUESTION = Question(
    "preflight",
    ({"role": "user", "content": "Which letter comes first, A or B? Say the letter alone."},),
    ("A", "B"),
    16,
)

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Send one body and give back the reply; raises Failure."""


async def preflight(settings: EndpointSettings, wire: Wire, ask: Ask) -> int:
    """Ask once.

    Returns:
        How many token probabilities can be asked for; 0 where the server refuses to be asked.

    Raises:
        ConfigError: the server does not answer, or not as one that speaks `chat/completions`.
    """
    slow = asyncio.get_running_loop().call_later(WITHIN_S, _still_waiting, settings)
    try:
        for top_logprobs in TOP_LOGPROBS if settings.logprobs else TOP_LOGPROBS[-1:]:
            try:
                reply = await _patiently(ask, request_body(QUESTION, settings, top_logprobs))
            except Failure as failure:
                if failure.status in NOT_UNDERSTOOD and top_logprobs:
                    continue
                raise await _told(failure, settings, wire) from None
            if not isinstance(reply.get("choices"), list):
                no_choices = Failure("its reply has no choices", "body")
                raise await _told(no_choices, settings, wire)
            if settings.logprobs and not _gives_logprobs(reply):
                progress.stage(
                    "judge", f"{settings.base_url} gives no token probabilities: answers are read from the text alone"
                )
            if _thinks(reply):
                progress.stage("judge", f"{settings.model} thinks before it answers and was cut off in it; {THINKS}")
            return top_logprobs
    finally:
        slow.cancel()
    raise AssertionError("the last of TOP_LOGPROBS is 0")


async def _patiently(ask: Ask, body: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await ask(body)
        except Failure as failure:
            pause = failure.wait or AGAIN_S
            passing = failure.again and (failure.status is not None or failure.cause == "body")
            if not passing or time.monotonic() + pause >= until:
                raise
            await asyncio.sleep(pause)


def _gives_logprobs(reply: dict[str, Any]) -> bool:
    """Some servers take the word and do nothing about it."""
    first = reply["choices"][0] if reply["choices"] else None
    return isinstance(first, dict) and bool(first.get("logprobs"))


def _thinks(reply: dict[str, Any]) -> bool:
    """It used up its tokens without a word of the answer, or shows its thoughts as the answer."""
    said = read(reply, QUESTION)
    return said.reason.startswith("cut off") or said.text.lstrip().startswith("<think>")


def _still_waiting(settings: EndpointSettings) -> None:
    progress.stage("judge", f"{settings.base_url} took the question and has not answered yet (loading the model?)")


Told = tuple[str, str, str]
"""What was found, where, and what to do."""


async def _told(failure: Failure, settings: EndpointSettings, wire: Wire) -> ConfigError:
    server, words = f"the judge's server at {settings.base_url}", failure.what
    if failure.status == 404:
        told = await _not_found(words, settings, wire)
    elif failure.status is not None and failure.cause == "status":
        told = _of_status(failure, server, settings.api_key_env)
    else:
        told = _of_cause(failure, server, settings.url.hostname in HERE)
    what, where, fix = told
    return ConfigError(what, where=where, fix=fix)


def _of_cause(failure: Failure, server: str, is_here: bool) -> Told:
    words, where = failure.what, "judge.base_url"
    if failure.cause == "redirect":
        return f"{server} answers with {words}", where, "give the address that it leads to, if you trust it"
    if failure.cause == "address":
        fix = "for a certificate of your own: judge.ca_file=FILE" if words.startswith("TLS") else "another address"
        if words.endswith("can be read on the way"):
            fix = "https://…; or judge.allow_insecure=true, where nobody else is in that network"
        return f"{server} is not spoken to: {words}", where, fix
    if failure.cause == "time":
        fix = "look at its log; a slow one needs more: judge.deadline=SECONDS judge.idle=SECONDS"
        return f"{server} took a question and gave no answer: {words}", "judge.deadline", fix
    if failure.cause == "body":
        return f"{server} does not speak chat/completions: {words}", where, ENDS
    fix = "start it (Ollama: `ollama serve`), or judge.base_url=ADDRESS"
    if not is_here:
        fix = "look at the address, at the server and at the network (behind a proxy: judge.proxy=true)"
    return f"{server} cannot be reached: {words}", where, fix


def _of_status(failure: Failure, server: str, key: str | None) -> Told:
    words = failure.what
    if failure.status in (401, 403) and key:
        return f"{server} refuses the key ({words})", "judge.api_key_env", f"is {key} current, and this server's?"
    if failure.status in (401, 403):
        return (
            f"{server} wants a key ({words})",
            "judge.api_key_env",
            "judge.api_key_env=NAME of the variable with the key",
        )
    if failure.status == 429:
        fix = "wait, look at the quota of the account, or set judge.requests_per_minute"
        return f"{server} lets nothing through ({words})", "judge.requests_per_minute", fix
    if failure.status in NOT_UNDERSTOOD:
        return f"{server} does not take the question ({words})", "judge.body", _another_body(failure)
    return f"{server} fails ({words})", "judge.base_url", "look at its log"


async def _not_found(words: str, settings: EndpointSettings, wire: Wire) -> Told:
    """No such model, or no such path: a server that has a list of models tells which."""
    model, base = settings.model, settings.base_url.rstrip("/")
    if models := await _models(wire):
        shown = ", ".join(models[:12]) + (f" and {len(models) - 12} more" if len(models) > 12 else "")
        return f"the judge's server at {base} has no model '{model}' ({words})", "judge.model", f"it has: {shown}"
    hint = "" if base.endswith("/v1") else f" (judge.base_url={base}/v1?)"
    fix = f"the address as the server's manual gives it{hint}; the model as the server names it"
    return f"{base} has no chat/completions for the model '{model}' ({words})", "judge.base_url, judge.model", fix


async def _models(wire: Wire) -> list[str]:
    try:
        listed = (await wire.get("/models", deadline=3.0)).get("data")
    except Failure:
        return []
    return (
        [str(one["id"]) for one in listed if isinstance(one, dict) and "id" in one] if isinstance(listed, list) else []
    )


def _another_body(failure: Failure) -> str:
    if "max_completion_tokens" in failure.body:
        return "judge.body='{max_tokens: null, max_completion_tokens: 2000}'"
    if "temperature" in failure.body:
        return "judge.body='{temperature: null}'"
    return "judge.model and judge.body as the server's manual has them"
