"""What passes between an answer's program and the tests: plain values, as JSON, one message after another.

Only exact built-in types cross as values, so an object that calls itself equal to everything stays where it is and the
tests get a handle to it. Used on both sides by `sandbox_inside.py`; standard library only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

MAX_BYTES = 1 << 20
MAX_DEPTH = 40


class Malformed(Exception):
    """The other side sent what is no message, or nothing any more."""


class NotPlain(Exception):
    """A value that cannot cross."""


def encode(value: Any, handle: Callable[[Any], Any] | None = None, depth: int = 0) -> Any:
    """A value as tagged lists. What is no plain value becomes `handle(value)`.

    Raises:
        NotPlain: it is no plain value and there is no `handle`, or it is nested too deep.
    """
    if depth > MAX_DEPTH:
        raise NotPlain("nested too deep")
    kind = type(value)
    if kind in (str, bytes, bytearray) and len(value) > MAX_BYTES:
        raise NotPlain(f"a {kind.__name__} of length {len(value)} is too long")
    if value is None or kind in (bool, int, float, str):
        return ["v", value]
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [encode(item, handle, depth + 1) for item in value]]
    if kind is dict:
        return ["dict", [[encode(k, handle, depth + 1), encode(v, handle, depth + 1)] for k, v in value.items()]]
    if kind in (bytes, bytearray):
        return [kind.__name__, value.hex()]
    if kind is complex:
        return ["complex", [value.real, value.imag]]
    if handle is None:
        raise NotPlain(f"a {kind.__name__} cannot be handed over")
    return handle(value)


def decode(given: Any, handle: Callable[[Any], Any]) -> Any:
    """The value that `encode` was given; `handle` makes something of a handle.

    Raises:
        Malformed: it is no such thing.
    """
    try:
        return _decode(given, handle)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise Malformed(f"not a value: {error}") from None


def _decode(given: Any, handle: Callable[[Any], Any]) -> Any:
    tag, body = given
    if tag == "v" and (body is None or type(body) in (bool, int, float, str)):
        return body
    if tag in ("list", "tuple", "set", "frozenset"):
        make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag]
        return make([_decode(item, handle) for item in body])
    if tag == "dict":
        return {_decode(key, handle): _decode(value, handle) for key, value in body}
    if tag in ("bytes", "bytearray"):
        return bytes.fromhex(body) if tag == "bytes" else bytearray.fromhex(body)
    if tag == "complex":
        return complex(*body)
    if tag == "handle" and type(body) is int:
        return handle(body)
    raise ValueError(f"tag {tag!r}")


def send(connection: socket.socket, message: Any) -> None:
    """Raises Malformed when the message is too long, NotPlain when it is not JSON (a number of too many digits)."""
    try:
        data = json.dumps(message).encode()
    except (ValueError, RecursionError) as error:
        raise NotPlain(str(error)) from None
    if len(data) > MAX_BYTES:
        raise NotPlain(f"{len(data)} bytes are too many to hand over")
    connection.sendall(len(data).to_bytes(4, "big") + data)


def receive(connection: socket.socket) -> Any:
    """Raises Malformed at the end of the connection, and for anything that is not a message."""
    size = int.from_bytes(_exactly(connection, 4), "big")
    if size > MAX_BYTES:
        raise Malformed(f"a message of {size} bytes")
    try:
        return json.loads(_exactly(connection, size))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            more = connection.recv(size - len(data))
        except OSError as error:
            raise Malformed(str(error)) from None
        if not more:
            raise Malformed("the program ended")
        data += more
    return data
