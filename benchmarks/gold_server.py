"""A server on this machine that speaks chat/completions and judges replies to `orders` as a noisy annotator does.

It reads the questions that `judge=openai_api` asks (one A or B about two answers) and says A with P = sigmoid(gold difference /
TAU), by a lot that hangs on the question: the same question gets the same answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlhf_lora.mini import orders

TAU = 0.5
PART = re.compile(r"(The conversation|Answer A|Answer B):\n=== \w+ ===\n(.*)\n=== \w+ ===", re.DOTALL)


def verdict(messages: list[Mapping[str, str]], seed: int) -> str:
    """A or B.

    Raises:
        ValueError: the messages ask something else.
    """
    parts = {m[1]: m[2] for turn in messages if (m := PART.fullmatch(turn["content"]))}
    if len(parts) < 3:
        raise ValueError(f"no comparison: {messages[-1]['content'][:80]!r}")
    prompt, a, b = (parts[name] for name in ("The conversation", "Answer A", "Answer B"))
    p = 1 / (1 + math.exp((orders.gold(prompt, b).value - orders.gold(prompt, a).value) / TAU))
    said = "\0".join([str(seed), prompt, a, b]).encode()
    return "A" if int.from_bytes(hashlib.sha256(said).digest()[:6], "big") / 2**48 < p else "B"


def completion(request: Mapping[str, Any], seed: int) -> dict[str, Any]:
    messages = request["messages"]
    try:
        said = verdict(messages, seed)
    except ValueError:
        said = "ok"  # a first question, before anything long, wants any answer
    words = sum(len(turn["content"].split()) for turn in messages)
    return {
        "object": "chat.completion", "model": request.get("model", "gold"),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": words, "completion_tokens": 1, "total_tokens": words + 1},
    }  # fmt: skip


@contextlib.contextmanager
def serving(seed: int = 0) -> Iterator[str]:
    """The base URL of a server that runs as long as the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(completion(request, seed)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
