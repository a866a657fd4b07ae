"""What passes between an answer's program and the tests: plain values, as JSON, one message after another.

Only exact types cross as values: built-in ones and some of the standard library's (`STANDARD`). They are made anew on the
other side, so no method of a program's comes along, and an object that calls itself equal to everything stays where it
is: the tests get a handle to it. Used on both sides by `inside.py`; standard library only.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
from collections.abc import Callable
from typing import Any

MAX_BYTES = 1 << 20
MAX_DEPTH = 40


FACTORIES = {kind.__name__: kind for kind in (int, float, str, bool, list, dict, set, tuple)}
STANDARD: dict[tuple[str, str], tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    ("builtins", "range"): (lambda v: (v.start, v.stop, v.step), lambda kind, p: kind(*p)),
    ("collections", "Counter"): (lambda v: dict(dict.items(v)), lambda kind, p: kind(p)),
    ("collections", "OrderedDict"): (lambda v: list(v.items()), lambda kind, p: kind(p)),
    ("collections", "defaultdict"): (
        lambda v: (next((n for n, kind in FACTORIES.items() if kind is v.default_factory), ""), dict(dict.items(v))),
        lambda kind, p: kind(FACTORIES.get(p[0]), p[1]),
    ),
    ("collections", "deque"): (lambda v: (list(v), v.maxlen), lambda kind, p: kind(*p)),
    ("fractions", "Fraction"): (lambda v: (v.numerator, v.denominator), lambda kind, p: kind(*p)),
    ("decimal", "Decimal"): (str, lambda kind, p: kind(p)),
    ("datetime", "date"): (lambda v: (v.year, v.month, v.day), lambda kind, p: kind(*p)),
    ("datetime", "time"): (lambda v: v.isoformat(), lambda kind, p: kind.fromisoformat(p)),
    ("datetime", "datetime"): (lambda v: v.isoformat(), lambda kind, p: kind.fromisoformat(p)),
    ("datetime", "timedelta"): (lambda v: (v.days, v.seconds, v.microseconds), lambda kind, p: kind(*p)),
}
"""By module and name: how a value becomes a plain one, and is made again from it. Found by the type itself, so what a
program calls `Counter` is none."""
VIEWS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    type({}.keys()): ("keys", list, lambda p: dict.fromkeys(p).keys()),
    type({}.items()): ("items", dict, lambda p: p.items()),
}


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
    if kind in VIEWS:
        return [VIEWS[kind][0], encode(VIEWS[kind][1](value), handle, depth + 1)]
    for (module, name), (plain, _) in STANDARD.items():
        if kind is getattr(sys.modules.get(module), name, None) and getattr(value, "tzinfo", None) is None:
            return [f"{module}.{name}", encode(plain(value), handle, depth + 1)]
    if handle is None:
        raise NotPlain(f"a {kind.__name__} cannot be handed over")
    return handle(value)


def plain_of(value: Any) -> Any:
    """The number, text or tuple in a value whose own kind adds to these but compares as they do; else None."""
    kind = type(value)
    for base, plain in ((int, int.__int__), (float, float.__float__), (str, str.__str__), (tuple, _items_of)):
        if issubclass(kind, base):
            same = all(getattr(kind, name) is getattr(base, name) for name in ("__eq__", "__ne__", "__lt__", "__gt__"))
            return plain(value) if same else None
    return None


def _items_of(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(tuple.__iter__(value))


def decode(given: Any, handle: Callable[..., Any]) -> Any:
    """The value that `encode` was given; `handle` makes something of a handle, and of a handle with a plain value.

    Raises:
        Malformed: it is no such thing.
    """
    try:
        return _decode(given, handle)
    except Exception as error:
        raise Malformed(f"not a value: {error}") from None


def _decode(given: Any, handle: Callable[..., Any]) -> Any:
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
    if tag == "like" and type(body[0]) is int:
        return handle(body[0], _decode(body[1], handle))
    for name, _, make_view in VIEWS.values():
        if tag == name:
            return make_view(_decode(body, handle))
    module, _, name = tag.rpartition(".")
    if (module, name) in STANDARD:
        return STANDARD[module, name][1](getattr(importlib.import_module(module), name), _decode(body, handle))
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
