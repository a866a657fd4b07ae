"""What runs inside: `python -I -S inside.py ROLE SOCKET` with a job as JSON on stdin.

`answer` loads the answer's program and serves calls of it. `tests` loads each test with the program's names standing
for calls, and writes one line of JSON per test to stdout. They are two processes with nothing but a socket between
them: what the program does to its own interpreter does not reach the tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn


def neighbour(name: str) -> Any:
    """A module beside this one. Run with -I, this file is in no package; `answer` is what the program is called in here."""
    return load(f"sandbox_{name}", os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py"))


def load(name: str, path: str, names: Mapping[str, Any] | None = None, loader: Any = None) -> Any:
    """Run a file as a module, with `names` there from the start."""
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names or {})
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write(path: str, text: str) -> str:
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
    return path


def watch(child: int, seconds: float) -> NoReturn:
    """Be the first process of the namespace: when it ends, so does everything in there.

    It ends with its child, or when the time is up: whoever started us may have died without killing us.
    """
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0) and (left := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)
    os._exit(0)


def main() -> None:
    role, connection = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    sys.dont_write_bytecode = True
    job = json.load(sys.stdin)
    jail, wire = neighbour("jail"), neighbour("wire")
    play = neighbour(role).play  # before the files are out of sight
    out, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    if job["jail"]:
        jail.remember_user()
        jail.close_in(job["python_lib"], job["scratch_mb"], job["user"])
        jail.protect_init()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        child = os.fork()
        if child:
            connection.close()
            os.close(out)
            watch(child, job["backstop_s"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        jail.give_up_privileges(job["user"])
    jail.limit(job["limits"])
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    play(job, connection, out, wire, load, write)


if __name__ == "__main__":
    main()
