"""A reward at work in a process of its own: `python -m rlhf_lora.reward_worker`. Started by `reward_calls.Worker`.

What it hangs, exits or crashes on takes nothing else with it. Lines of JSON in both directions, over what were stdin and
stdout; the plugin's own output goes to stderr. No torch is imported here unless the plugin does.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from rlhf_lora.errors import ContractError, RlhfLoraError
from rlhf_lora.records import Sample
from rlhf_lora.reward_calls import Failed, ask
from rlhf_lora.scores import score_as_plain


def main() -> None:
    lines, answers = _pipes()
    begin = json.loads(lines.get())
    try:
        source = _made(begin)
    except RlhfLoraError as error:
        _say(answers, {"failed": str(error)})
        return
    _say(answers, {"ready": True})
    while True:
        asked = json.loads(lines.get())
        _seed(begin["seed"], asked)
        samples = [Sample(**sample) for sample in asked["samples"]]
        try:
            scores = ask(source, samples, asked["columns"], begin["name"])
            _say(answers, {"scores": [score_as_plain(score) for score in scores]})
        except Failed as failure:
            _say(answers, {"failed": str(failure)})
        except ContractError as error:
            _say(answers, {"broken": str(error)})


def _pipes() -> tuple[queue.Queue[str], TextIO]:
    """Requests and answers, on descriptors that the plugin does not know. When the parent is gone, so is this process."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in requests:
            lines.put(line)
        os._exit(0)  # even out of a plugin that hangs

    threading.Thread(target=read, daemon=True).start()
    return lines, answers


def _made(begin: dict[str, Any]) -> Any:
    from rlhf_lora import doors, registry
    from rlhf_lora.contracts import Context

    for file in begin["plugins"]:
        doors.load_file(file)
    reward = registry.build("reward", begin["reward"])
    opener = getattr(reward, "open", None)
    if not callable(opener):
        return reward
    return opener(Context(seed=begin["seed"], cache_dir=Path(begin["cache_dir"]), run_dir=Path(begin["run_dir"])))


def _seed(seed: int, asked: dict[str, Any]) -> None:
    """A reward that draws gives the same for the same samples, whether the run went straight through or was resumed."""
    text = json.dumps([seed, [[sample["prompt"], sample["text"]] for sample in asked["samples"]]])
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what, allow_nan=False) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
