"""`python -m rlhf_lora.mini`: make a small base in Transformers layout, for a generated task or from your own text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_lora.errors import ConfigError, UserError
from rlhf_lora.mini.judge_base import JudgeBaseSettings
from rlhf_lora.progress import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. The folder goes to stdout, progress to stderr."""
    os.environ.setdefault("GOMP_SPINCOUNT", "0")  # read once, when torch is imported
    given = _parser().parse_args(arguments)
    try:
        return _text(given) if given.command == "text" else _task(given)
    except UserError as error:
        print(f"rlhf_lora.mini: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rlhf_lora.mini", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    text = commands.add_parser("text", help="a base of 3-10 M parameters from the text of JSONL files")
    text.add_argument("--data", nargs="+", required=True, metavar="FILE", help="JSONL or a JSON array, plain or gzip")
    text.add_argument("--to", required=True, metavar="FOLDER", help="a folder that does not exist")
    text.add_argument("--architecture", default="llama", help="llama or qwen2 (biases, tied embeddings); default llama")
    text.add_argument("--params", default="5M", help="about how many parameters, e.g. 3M; default 5M")
    text.add_argument("--vocabulary", type=int, default=2048, help="entries of the byte-level BPE; default 2048")
    text.add_argument("--steps", type=int, default=200, help="more = better and slower; default 200, minutes on a CPU")
    text.add_argument("--seed", type=int, default=0)
    small = commands.add_parser("orders", help="the base of the embedded default, 0.12 M parameters")
    small.add_argument("--to", required=True, metavar="FOLDER", help="a folder that does not exist")
    small.add_argument("--items", type=int, default=12, help="how many things can be ordered; default 12")
    small.add_argument("--seed", type=int, default=0)
    desk = commands.add_parser(
        "helpdesk", help="the base of dataset=helpdesk and dataset=helpdesk_rules, 0.12 M parameters"
    )
    desk.add_argument("--to", required=True, metavar="FOLDER", help="a folder that does not exist")
    desk.add_argument("--seed", type=int, default=0)
    judge = commands.add_parser(
        "judge", help="a base of orders that can judge: judge=local judge.style=bare; 0.28 M parameters"
    )
    judge.add_argument("--to", required=True, metavar="FOLDER", help="a folder that does not exist")
    made = JudgeBaseSettings()
    judge.add_argument(
        "--items", type=int, default=made.items, help=f"how many things can be ordered; default {made.items}"
    )
    judge.add_argument(
        "--steps",
        type=int,
        default=made.steps,
        help=f"more = better and slower; default {made.steps}, minutes on a CPU",
    )
    judge.add_argument("--seed", type=int, default=made.seed, help=f"of its own pairs and weights; default {made.seed}")
    return parser


def _text(given: argparse.Namespace) -> int:
    from rlhf_lora.mini.text_base import TextBaseSettings, build_text_base

    settings = TextBaseSettings(
        architecture=given.architecture,
        params=_number(given.params),
        vocabulary=given.vocabulary,
        steps=given.steps,
        seed=given.seed,
    )
    facts = build_text_base(given.data, Path(given.to), settings)
    print(
        f"{facts['parameters']:,} parameters, {facts['texts']} texts, {facts['tokens']:,} tokens, "
        f"loss {facts['first_loss']:.2f} → {facts['last_loss']:.2f} nats per token",
        file=sys.stderr,
    )
    print(given.to)
    return 0


def _task(given: argparse.Namespace) -> int:
    from rlhf_lora.atomic import staging
    from rlhf_lora.mini import bases

    folder = Path(given.to)
    if folder.exists():
        raise ConfigError(f"{folder} exists", where="--to", fix="give a folder that does not exist")
    if given.command == "judge":
        return _judge(given, folder)
    settings: bases.AnyBase = (
        bases.BaseSettings(items=given.items, seed=given.seed)
        if given.command == "orders"
        else bases.HelpdeskBase(seed=given.seed)
    )
    with staging(folder) as building, Progress(f"{given.command} base", settings.steps) as bar:
        bases.build(building, settings, lambda _done, _total: bar.update(1))
    print(folder)
    return 0


def _judge(given: argparse.Namespace, folder: Path) -> int:
    from rlhf_lora.atomic import staging
    from rlhf_lora.mini.judge_base import build_judge_base

    settings = JudgeBaseSettings(items=given.items, steps=given.steps, seed=given.seed)
    with staging(folder) as building, Progress("judge base", settings.steps) as bar:
        build_judge_base(building, settings, lambda _done, _total: bar.update(1))
    print(folder)
    return 0


def _number(text: str) -> int:
    """`5M` → 5,000,000; `800k` → 800,000."""
    scale = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower())
    try:
        return round(float(text[:-1]) * scale) if scale else int(text)
    except ValueError:
        raise ConfigError(f"'{text}' is no number of parameters", where="--params", fix="e.g. --params 5M") from None


if __name__ == "__main__":
    sys.exit(main())
