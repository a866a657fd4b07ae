"""A small OpenAI-compatible server on 127.0.0.1 that can be told to fail, in every way in which servers do.

    with Server(fault=lambda request: "429" if request.nth == 1 else None) as server: ...

What is asked ends in `id: NAME`; the answer says `re: NAME`, so that an answer to another question is seen. `paid[NAME]`
counts answers that were sent whole. A question without that is known by its whole text.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PREFLIGHT = "preflight"
FIRST = "Which letter comes first"
"""How the question of the preflight begins."""


@dataclass
class Request:
    """One request as it came; `nth`: the how-manieth of this question, from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    id: str = ""
    nth: int = 0


def said(request: Request) -> str:
    return "A" if request.id == PREFLIGHT else f"re: {request.id}"


@dataclass
class Server:
    """
    Args:
        fault: the name of a fault for a request, or None; `Faults` below lists them. Not asked about the preflight question
            unless `early`.
        answer: text for a request. reply: more of the reply's choice. latency: seconds. tls: certificate and key file.
    """

    fault: Callable[[Request], str | None] = lambda request: None
    answer: Callable[[Request], str] = said
    choice: Callable[[Request], dict[str, Any]] = lambda request: {}
    latency: Callable[[Request], float] = lambda request: 0.0
    early: bool = False
    usage: dict[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 5})
    models: tuple[str, ...] = ("tiny",)
    key: str | None = None
    tls: tuple[str, str] | None = None
    location: str = "http://127.0.0.1:9/v1/chat/completions"
    port: int = 0

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.paid: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.under_way = self.most = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    # --- its thread ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve() -> None:
            context = None
            if self.tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self.tls)
            self._server = await asyncio.start_server(self._client, "127.0.0.1", self.port, ssl=context, backlog=512)
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        def run() -> None:
            self._loop.run_until_complete(serve())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        """Gone, with every connection broken."""
        if self._loop.is_closed():
            return

        async def end() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await self._read(reader)) is not None:
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                try:
                    goes_on = await self._handle(request, reader, writer)
                finally:
                    self.under_way -= 1
                if not goes_on:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(method, path, headers, json.loads(data) if data else {})
        text = " ".join(turn["content"] for turn in request.body.get("messages", []))
        found = re.search(r"id: (\S+)", text)
        request.id = found[1] if found else PREFLIGHT if text.startswith(FIRST) or not text else text
        self.asked[request.id] += 1
        request.nth = self.asked[request.id]
        self.requests.append(request)
        return request

    async def _handle(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            given = request.headers.get("authorization", "none").removeprefix("Bearer ")
            return await send(writer, 401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        if request.path.endswith("/models"):
            return await send(writer, 200, {"data": [{"id": name} for name in self.models]})
        if not request.path.endswith("/v1/chat/completions"):
            return await send(writer, 404, {"detail": "Not Found"})
        if self.models and request.body.get("model") not in self.models:
            return await send(writer, 404, {"error": {"message": "no such model", "code": "model_not_found"}})
        if delay := self.latency(request):
            await asyncio.sleep(delay)
        fault = self.fault(request) if self.early or request.id != PREFLIGHT else None
        if fault is not None:
            self.faults[fault] += 1
            if fault == "hang":
                await reader.read(1)  # until the client leaves
                return False
            return await self._fail(fault, request, writer)
        goes_on = await send(writer, 200, self.reply(request))
        self.paid[request.id] += 1
        return goes_on

    def reply(self, request: Request) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.answer(request)},
            "finish_reason": "stop",
        }
        told = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice | self.choice(request)]}
        return told | ({"usage": self.usage} if self.usage else {})

    async def _fail(self, fault: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        """429, 429:SECONDS, 4xx, 5xx, drop, early, hang, garbage, list, no_choices, drip, redirect, huge, gzip."""
        name, _, more = fault.partition(":")
        whole = json.dumps(self.reply(request)).encode()
        if name.isdigit():
            headers = {"retry-after": more} if name == "429" and more else {}
            return await send(writer, int(name), {"error": {"message": more or "no"}}, headers)
        if name == "redirect":
            return await send(writer, 307, {}, {"location": self.location})
        if name == "drop":  # before a byte of an answer
            return False
        if name == "garbage":
            return await send(writer, 200, b'<html>\xff\x00 {"choices": [NaN')
        if name == "deep":
            return await send(writer, 200, b"[" * 200_000)
        if name in ("list", "no_choices"):
            return await send(writer, 200, [1] if name == "list" else {"object": "error", "message": "out of memory"})
        if name == "gzip":
            import gzip

            return await send(writer, 200, gzip.compress(b"0" * (2 << 20)), {"content-encoding": "gzip"})
        if name == "huge":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(100):
                writer.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
                await writer.drain()
            return False
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(whole))
        if name == "early":  # ends in the middle
            writer.write(whole[: len(whole) // 2])
            await writer.drain()
            return False
        assert name == "drip", fault
        for byte in whole:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(float(more or 0.05))
        return True


REASONS = {200: "OK", 307: "Temporary Redirect", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


async def send(writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None) -> bool:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
    head = f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in told.items())
    writer.write(head.encode() + b"\r\n" + data)
    await writer.drain()
    return True
