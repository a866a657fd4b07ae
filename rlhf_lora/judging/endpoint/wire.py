"""One request to a server, and every way in which it can fail, in words.

Bounds: 5 s to connect, `idle` seconds without a byte, `deadline` seconds in all (a server that sends a byte now and then
defeats every other limit), 1 MiB of answer. TLS is verified; nothing follows a redirect, because the key would go along.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from rlhf_lora.judging.endpoint.addresses import Refused
from rlhf_lora.judging.endpoint.keys import Redactor
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.endpoint.transport import transport_to

CONNECT_S = 5.0
MAX_BODY = 1 << 20
SHOWN = 300
"""Characters of a server's own words in a message."""
LONGEST_RETRY_AFTER_S = 60.0
PASSING = {408, 409, 429}
"""With 5xx, the states that may be over a moment later."""


class Failure(Exception):
    """A request that gave no answer.

    Attributes:
        what: in words, without keys.
        cause: `address` (nothing may be sent there, or TLS failed), `connection`, `time`, `status`, `redirect`, `body`.
        status: of HTTP, where there is one.
        again: it may go through at another attempt.
        wait: seconds that the server asks to be left alone, at most 60.
        paid: the server may have worked for it, and count it.
    """

    def __init__(
        self, what: str, cause: str, *, status: int | None = None, again: bool = False, wait: float | None = None,
        paid: bool = False, body: str = "",
    ):  # fmt: skip
        super().__init__(what)
        self.what, self.cause, self.status, self.again, self.wait, self.paid = what, cause, status, again, wait, paid
        self.body = body


class Wire:
    """Connections to one server, kept open between requests. Use it from one event loop.

    Args:
        key: sent as a bearer token, to this server's host alone.
        redact: takes the key out of whatever is told.
    """

    def __init__(self, settings: EndpointSettings, key: str | None, redact: Redactor):
        self._settings, self._redact = settings, redact
        # identity: a body of 1 MiB that unpacks to 1 GiB is none
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "rlhf-lora"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            headers=headers, follow_redirects=False, trust_env=False, transport=transport_to(settings),
            timeout=httpx2.Timeout(settings.idle, connect=min(CONNECT_S, settings.deadline)),
        )  # fmt: skip

    async def post(self, path: str, body: Mapping[str, Any], deadline: float | None = None) -> dict[str, Any]:
        """Send JSON and give back the JSON object that came.

        Raises:
            Failure: anything else.
        """
        content = json.dumps(body, ensure_ascii=True, allow_nan=False).encode()
        return await self._within(deadline, "POST", path, content)

    async def get(self, path: str, deadline: float | None = None) -> dict[str, Any]:
        """As `post`, of something that is there to be read."""
        return await self._within(deadline, "GET", path, None)

    async def close(self) -> None:
        await self._client.aclose()

    async def _within(self, deadline: float | None, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        seconds = deadline or self._settings.deadline
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(method, path, content)
        except TimeoutError:
            raise Failure(
                f"no whole answer within {seconds:g} s (judge.deadline)", "time", again=True, paid=True
            ) from None

    async def _exchange(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        headers = {"content-type": "application/json"} if content is not None else {}
        url = self._settings.url.geturl() + path
        request = self._client.build_request(method, url, content=content, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
            try:
                data = await self._body(response)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, OSError, Refused) as error:
            raise self._failure(error) from None
        if response.status_code != 200:
            raise self._status(response, data)
        return self._parsed(data)

    async def _body(self, response: httpx2.Response) -> bytes:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Failure("the body is compressed, which was not asked for", "body", again=True, paid=True)
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > MAX_BODY:
                raise Failure(f"the body is longer than {MAX_BODY >> 20} MiB", "body", again=True, paid=True)
        return bytes(data)

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(data, parse_constant=_no_number)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise Failure(f"the body is no JSON object: {self._shown(data)}", "body", again=True, paid=True)
        return parsed

    def _shown(self, data: bytes) -> str:
        text = self._redact(data[: 4 * SHOWN].decode("utf-8", "replace"))
        return repr(" ".join(text.split())[:SHOWN])

    def _status(self, response: httpx2.Response, data: bytes) -> Failure:
        status = response.status_code
        if 300 <= status < 400:
            target = httpx2.URL(response.headers.get("location", "")).host if "location" in response.headers else ""
            to = f" to {self._redact(target)}" if target else ""
            return Failure(
                f"HTTP {status}: it redirects{to}, and redirects are not followed", "redirect", status=status
            )
        words = self._redact(_error_words(data))
        return Failure(
            f"HTTP {status}" + (f": {words}" if words else ""), "status", status=status, body=words,
            again=status in PASSING or status >= 500, wait=_retry_after(response.headers),
        )  # fmt: skip

    def _failure(self, error: Exception) -> Failure:
        """What the client raised, in a few words. Its own text is not shown: of some errors it holds the headers."""
        if isinstance(error, Refused):
            return Failure(str(error), "address")
        if isinstance(error, httpx2.ConnectTimeout):
            return Failure(f"no connection within {CONNECT_S:g} s", "connection", again=True)
        if isinstance(error, httpx2.TimeoutException):
            return Failure(f"nothing came for {self._settings.idle:g} s (judge.idle)", "time", again=True, paid=True)
        if (tls := _tls_error(error)) is not None:
            return Failure(f"TLS: {self._redact(tls)}", "address")
        if isinstance(error, httpx2.ConnectError | OSError):
            return Failure(f"no connection: {self._redact(_root(error))}", "connection", again=True)
        # httpx2 says RemoteProtocolError of a body that ends early, ReadError of a connection that breaks
        return Failure(f"the connection broke ({type(error).__name__})", "connection", again=True, paid=True)


def _error_words(data: bytes) -> str:
    """What a server says of an error: OpenAI's `{"error": {"message": …}}`, others' variants of it, or the plain text."""
    try:
        told = json.loads(data)
        for name in ("error", "message", "detail"):
            told = told.get(name, told) if isinstance(told, dict) else told
        code = ""
        if isinstance(told, dict):
            code = str(told.get("code") or "")
            told = told.get("message") or told
        text = told if isinstance(told, str) else json.dumps(told)
        text = f"{text} ({code})" if code else text
    except (ValueError, RecursionError):
        text = data[: 4 * SHOWN].decode("utf-8", "replace")
    return " ".join(text.split())[:SHOWN]


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds, from `retry-after-ms` or from `retry-after` as seconds or as a date."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        elif (text := headers.get("retry-after", "")).replace(".", "", 1).isdigit():
            seconds = float(text)
        else:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if seconds == seconds else None


def _tls_error(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return error.reason or "the handshake failed"
        error = error.__cause__ or error.__context__
    return None


def _root(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:SHOWN]


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
