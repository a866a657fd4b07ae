"""The side of the answer: load its program, then do what the tests ask, until they hang up. Trusted with nothing."""

from __future__ import annotations

import os
import socket
from collections import Counter, OrderedDict, defaultdict, deque
from itertools import islice
from typing import Any

MOST_ITEMS = 10_000
MUTABLE = (list, dict, set, bytearray, deque, Counter, OrderedDict, defaultdict)


def play(job: Any, connection: socket.socket, out: int, wire: Any, load: Any, write: Any) -> None:
    """Serve requests `[operation, target, …]`; the replies are `["ok", value, arguments after]` or `["raised", …]`."""
    os.close(out)  # results are not ours to write
    wire.send(connection, "ready")
    objects: list[Any] = []
    try:
        objects.append(load("answer", write("answer.py", job["code"])))
        wire.send(connection, ["ok", ["v", None], []])
    except BaseException as error:
        wire.send(connection, _raised(error))
        os._exit(1)
    while True:
        try:
            request = wire.receive(connection)
        except wire.Malformed:
            os._exit(0)
        try:
            wire.send(connection, _serve(request, objects, wire))
        except BaseException as error:
            wire.send(connection, _raised(error))


def _serve(request: Any, objects: list[Any], wire: Any) -> Any:
    def handle(value: Any) -> Any:
        objects.append(value)
        like = wire.plain_of(value)
        if like is not None:
            return ["like", [len(objects) - 1, wire.encode(like, handle)]]
        return ["handle", len(objects) - 1]

    operation, target, arguments, keywords = request
    thing = objects[target]
    args = [wire.decode(a, objects.__getitem__) for a in arguments]
    named = {key: wire.decode(a, objects.__getitem__) for key, a in keywords.items()}
    if operation == "get":
        value = getattr(thing, args[0])
    elif operation == "call":
        value = thing(*args, **named)
    elif operation == "item":
        value = thing[args[0]]
    elif operation == "length":
        value = len(thing)
    elif operation == "next":
        value = next(thing)
    elif operation == "items":
        value = list(islice(thing, MOST_ITEMS + 1))
        if len(value) > MOST_ITEMS:
            raise OverflowError(f"more than {MOST_ITEMS} items")
    else:
        value = str(thing) if operation == "str" else repr(thing)
    # a list that the program sorted in place is sorted for the tests too
    after = [wire.encode(a, handle) if type(a) in MUTABLE else None for a in args]
    return ["ok", wire.encode(value, handle), after]


def _raised(error: BaseException) -> Any:
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        said = str(error)[:500]
    except BaseException:
        said = ""
    return ["raised", kinds[0], said]
