"""The endpoint under load: many questions, 19 % of the requests failing in every way, and a kill in the middle.

    python tests/judging/load.py [--questions 10000] [--kill-at 4000]

prints what became of them. The client runs in a process of its own, so that it can be killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from openai_server import PREFLIGHT, Request, Server

CONCURRENCY = 32
SHARES = {
    "429": 0.03, "429:0.1": 0.02, "500": 0.05, "drop": 0.02, "early": 0.01, "hang": 0.02, "garbage": 0.02, "no_choices": 0.01,
    "drip:0.1": 0.01,
}  # fmt: skip
"""19 % together."""


def drawn(seed: int) -> Any:
    draw = random.Random(seed)

    def fault(request: Request) -> str | None:
        return draw.choices([None, *SHARES], [1 - sum(SHARES.values()), *SHARES.values()])[0]

    return fault


@dataclass
class Outcome:
    """What became of the questions.

    Attributes:
        lost: no answer. wrong: the answer to another one. twice: answers sent whole more than once, but for those that were on
            their way when the client was killed. repeated: asked again though the answer was on disk at the kill.
        on_their_way: sent whole, and not on disk when the client was killed.
        factor: requests for each that would have done without faults.
        most: requests under way at once, as the client counts them; seen: as the server does.
    """

    questions: int
    lost: int
    wrong: int
    twice: int
    repeated: int
    on_their_way: int
    requests: int
    factor: float
    most: int
    seen: int
    kept: int
    seconds: float
    faults: dict[str, int]


def run(count: int, folder: Path, kill_at: int | None = None, seed: int = 0) -> Outcome:
    """Ask; with `kill_at` in two goes, the first ended with SIGKILL when so many answers were sent."""
    began = time.monotonic()
    on_disk: set[str] = set()
    at_kill: Counter[str] = Counter()
    with Server(fault=drawn(seed), latency=lambda request: 0.02) as server:
        if kill_at is not None:
            client = started(server.url, count, folder)
            while sum(server.paid.values()) < kill_at:
                assert client.poll() is None, client.communicate()
                time.sleep(0.002)
            os.kill(client.pid, signal.SIGKILL)
            client.communicate()
            time.sleep(0.2)  # the server notices
            on_disk, at_kill = kept(folder), Counter(server.paid)
            server.requests.clear()
        client = started(server.url, count, folder)
        printed, errors = client.communicate()
        assert client.returncode == 0, errors
    found = json.loads(printed)
    texts: dict[str, str] = found["texts"]
    paid = {id: number for id, number in server.paid.items() if id != PREFLIGHT}
    lost_in_the_kill = {id for id, number in at_kill.items() if id not in on_disk and id != PREFLIGHT}
    asked = sum(number for id, number in server.asked.items() if id != PREFLIGHT)
    return Outcome(
        count, lost=count - len(texts), wrong=sum(text != f"re: {id}" for id, text in texts.items()),
        twice=sum(number > 1 for id, number in paid.items() if id not in lost_in_the_kill),
        repeated=len({request.id for request in server.requests} & on_disk), on_their_way=len(lost_in_the_kill),
        requests=asked, factor=asked / count, most=found["most"], seen=server.most, kept=found["kept"],
        seconds=time.monotonic() - began,
        faults=dict(server.faults),
    )  # fmt: skip


def started(url: str, count: int, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--client", url, "--questions", str(count), "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kept(folder: Path) -> set[str]:
    """Ids of the questions whose answers are on disk."""
    base = sqlite3.connect(folder / "judge_answers.sqlite")
    found = {json.loads(row[0])["text"].removeprefix("re: ") for row in base.execute("SELECT answer FROM answers")}
    base.close()
    return found


def client(url: str, count: int, folder: Path) -> None:
    """Ask, and print the texts by id."""
    from rlhf_lora.judging.endpoint.listener import Endpoint
    from rlhf_lora.judging.endpoint.settings import EndpointSettings
    from rlhf_lora.judging.questions import Question

    settings = EndpointSettings(base_url=url, model="tiny", concurrency=CONCURRENCY, idle=1.5, deadline=2.0)
    endpoint = Endpoint(settings, folder, folder, backoff=(0.05, 0.5))
    asked = [Question(f"q{i}", ({"role": "user", "content": f"which is better? id: q{i}"},)) for i in range(count)]
    answers = endpoint.ask(asked, lambda question, answer: answer.text.startswith("re: "))
    texts = {answer.id: answer.text for answer in answers if answer.kind == "text"}
    print(json.dumps({"texts": texts, "kept": endpoint.counts.kept, "most": endpoint._metered.pace.most}))
    endpoint.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        client(given.client, given.questions, given.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(run(given.questions, Path(folder), given.kill_at, given.seed)), indent=1))


if __name__ == "__main__":
    main()
