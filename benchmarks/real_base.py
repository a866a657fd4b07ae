"""A small base for `real_rewards.py`, where no model can be downloaded: pretrained on the training texts of all files together.

The files share prompts (AlpacaEval's are in two of them, and split differently), so it is not enough that each file's own test
prompts are left out: a prompt that any of the runs is judged on is taken from the texts of all of them. Both answers of a
comparison are read alike, so that the base knows nothing of who won.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FILES: dict[str, tuple[str, str | None]] = {
    "hh-harmless": ("hh-harmless/train.jsonl.gz", "hh-harmless/test.jsonl.gz"),
    "helpful-ai-pairs": ("helpful-ai-pairs/train.jsonl.gz", "helpful-ai-pairs/test.jsonl.gz"),
    "human-pairs/autoj": ("human-pairs/autoj_pairwise.jsonl.gz", None),
    "ranked/alpaca_eval_k": ("ranked/alpaca_eval_k.jsonl.gz", None),
    "ranked/qa_feedback": ("ranked/qa_feedback_human.json.gz", None),
}
"""Data set → training file, and its own test file where it has one; of the others a share of the prompts is held out."""

SHARES = {"sft": 0, "reward_model": 70, "prompts": 0, "tuning": 5, "final": 25}
"""With a test file nothing else is final, and the reward model has 95 %."""

SETTINGS = {"params": 1_800_000, "vocabulary": 4096, "layers": 4, "context": 512, "batch": 8, "steps": 300, "seed": 0}
"""128 channels and 1,024 positions (twice the context)."""

FACTS = "real_base.json"


def settings_of(data: Path, files: str) -> dict[str, str]:
    """The settings of `dataset=jsonl` for a data set."""
    train, test = FILES[files]
    return {"path": str(data / train)} | ({"test_path": str(data / test)} if test else {})


def splits_of(data: Path) -> list[Any]:
    """The kit's own splits of every data set."""
    from rlhf_lora import registry
    from rlhf_lora.splits import Shares, split

    read = [registry.build("dataset", {"name": "jsonl", **settings_of(data, files)}).load() for files in FILES]
    return [split(one, Shares(**SHARES), uses=("reward_model",)) for one in read]


def held_out(splits: Iterable[Any]) -> set[str]:
    """The prompts (their split keys) that any of the runs is judged on, tuning splits included."""
    return {key for one in splits for key in one.held_out()}


def texts(splits: Sequence[Any]) -> list[str]:
    """Prompt and answer, each text once, of all that is learned from and whose prompt is held out nowhere."""
    from rlhf_lora.mini.text_base import joined

    held = held_out(splits)
    pairs = [pair for one in splits for pair in one.pairs if pair.prompt.split_key not in held]
    return list(dict.fromkeys(joined(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)))


def ensure(data: Path, folder: Path, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build the base in `folder`, or take the one that is there. Which texts it is made of is in no file but its weights.

    Returns:
        Its settings, parameters, texts, tokens, first and last loss (nats per token) and CPU seconds.

    Raises:
        RuntimeError: the folder holds a base of other texts or settings, which may have read what is judged on here.
    """
    from rlhf_lora.mini.text_base import TextBaseSettings, build_text_base

    settings = settings or SETTINGS
    splits = splits_of(data)
    rows = [json.dumps({"text": text}) for text in texts(splits)]
    made_of = {"settings": settings, "sha256": hashlib.sha256("\n".join(rows).encode()).hexdigest()}
    if folder.exists():
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text("utf-8")) if (folder / FACTS).is_file() else {}
        if any(facts.get(name) != value for name, value in made_of.items()):
            raise RuntimeError(f"{folder} is no base of these texts and settings; give another folder")
        return facts
    started = time.process_time()
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "texts.jsonl"
        file.write_text("\n".join(rows) + "\n", "utf-8")
        built = build_text_base([str(file)], folder, TextBaseSettings(**settings))
    kept = {name: built[name] for name in ("parameters", "texts", "tokens", "first_loss", "last_loss")}
    seconds = round(time.process_time() - started, 1)
    facts = {**made_of, **kept, "held_out_prompts": len(held_out(splits)), "cpu_seconds": seconds}
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return facts
