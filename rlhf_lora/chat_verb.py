"""`rlhf-lora chat RUN`: talk to the policy of a finished run, on a terminal or through a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rlhf_lora.data_show import visible
from rlhf_lora.errors import ConfigError, RlhfLoraError
from rlhf_lora.records import Message, Sample, Score, named_seed

COMMANDS = "/reset begins a new conversation, /quit leaves (so does Ctrl-D)"


def run(words: Sequence[str], options: Mapping[str, str], as_json: bool) -> int:
    """Answer `--prompt`, or each line of stdin; on a terminal it asks for them.

    Raises:
        UserError: no run, a wrong option; from a pipe also a prompt that cannot be answered.
    """
    runs, overrides = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    if len(runs) != 1:
        raise ConfigError(
            f"chat wants one run folder, got {len(runs)}", where="rlhf-lora chat", fix="rlhf-lora chat RUN"
        )
    best_of = _best_of(options.get("--best-of", "1"))
    from rlhf_lora.finished_run import open_run

    with open_run(runs[0], *overrides) as opened:
        if best_of > 1:
            _ = opened.scorer  # what is wrong with it is said before the first question
        talk = Talk(opened, best_of, as_json)
        if "--prompt" in options:
            talk.say(options["--prompt"])
        elif sys.stdin.isatty():
            _loop(talk)
        else:
            for line in sys.stdin:
                if talk.hear(line.rstrip("\r\n")):
                    break
    return 0


class Talk:
    """A conversation with an opened run; where it was trained on single prompts, each is answered by itself.

    Attributes:
        turns: what was said so far; empty for a run of single prompts.
    """

    def __init__(self, opened: Any, best_of: int = 1, as_json: bool = False):
        self.opened, self.best_of, self.as_json = opened, best_of, as_json
        self.turns: list[Message] = []
        self._asked = 0

    def hear(self, line: str) -> bool:
        """Do what a line says; True when it was /quit."""
        if line.strip() == "/reset":
            self.turns = []
        elif line.strip() and line.strip() != "/quit":
            self.say(line)
        return line.strip() == "/quit"

    def say(self, text: str) -> None:
        """Print the answer to a prompt; its score to stderr, or both as JSON."""
        prompt = self.opened.prompt(text, self.turns)
        config = self.opened.plan.config
        seed = config.seed if config.evaluation.seed is None else config.evaluation.seed
        ((sample, score),) = self.opened.answers([prompt], self.best_of, named_seed(seed, f"chat/{self._asked}"))
        self._asked += 1
        if prompt.messages is not None:
            self.turns = [*prompt.messages, {"role": "assistant", "content": sample.text.strip()}]
        if self.as_json:
            print(json.dumps(as_plain(text, sample, score, self.best_of), ensure_ascii=False), flush=True)
            return
        print(shown(sample.text.strip()), flush=True)
        if self.best_of > 1:
            said = (
                f"score {score.value:.4g}"
                if score.value is not None
                else f"no score ({score.kind}: {visible(score.reason)})"
            )
            print(f"  {said}, best of {self.best_of}", file=sys.stderr)
        if not sample.finished:
            print("  cut: rollout.max_new_tokens=N lets it go on", file=sys.stderr)


def as_plain(text: str, sample: Sample, score: Score, best_of: int) -> dict[str, Any]:
    """An answer for a program; a score where somebody was asked, null with the reason where there is none."""
    found: dict[str, Any] = {
        "prompt": text, "text": sample.text, "finished": sample.finished, "tokens": len(sample.tokens or ()), "best_of": best_of,
    }  # fmt: skip
    if best_of > 1:
        found["score"] = score.value
        found |= {"missing": score.kind, "reason": score.reason} if score.value is None else {}
    return found


def shown(text: str) -> str:
    """A text on a terminal: its lines stay, no control or direction character of it gets there."""
    return "\n".join(visible(line) for line in text.split("\n"))


def _loop(talk: Talk) -> None:
    """Ask until /quit or the end of input. What goes wrong with a prompt costs a message; Ctrl-C ends the answer, not the talk."""
    print(COMMANDS, file=sys.stderr)
    if not talk.opened.conversational:
        print("each prompt is answered by itself: the run was trained on single prompts", file=sys.stderr)
    for line in _typed():
        try:
            if talk.hear(line):
                return
        except RlhfLoraError as error:
            print(f"rlhf-lora: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n  left off", file=sys.stderr)


def _typed() -> Iterator[str]:
    with suppress(ImportError):
        import readline  # noqa: F401  # lines can be edited, and earlier ones come back

    while True:
        try:
            if sys.stdout.isatty():
                yield input("> ")
            else:
                print("> ", end="", file=sys.stderr, flush=True)
                line = sys.stdin.readline()
                if not line:
                    return
                yield line.rstrip("\r\n")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return


def _best_of(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--best-of wants a number, not '{text}'", where=f"--best-of {text}", fix="--best-of 4")
    return int(text)
