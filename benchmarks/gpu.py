"""A card, measured: peak memory of every stage beside what the plan says, and how fast PPO goes. Needs CUDA, no network.

    python benchmarks/gpu.py --hardware gpu_12gb --models qwen3_0_6b qwen3_1_7b qwen3_4b
    python benchmarks/gpu.py --table                         prints the table of the last measurement

Models have a preset's shape and random weights, so that nothing is downloaded: memory and speed do not know the difference.
Random policies do not end their answers, so every answer has `rollout.max_new_tokens` tokens: the worst case. Each stage runs
in a process of its own; its peak is what torch reserved on the card.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measured

RESULT = measured.RESULTS / "gpu.json"
STAGES = {
    "sft": ("stages=[sft]",),
    "reward_model": ("stages=[reward_model]",),
    "ppo": ("stages=[policy]", "reward=length"),
    "dpo": ("stages=[policy]", "optimizer=dpo"),
}
WORDS = (
    "the a one what how why does do make take give find tell show good bad long short cat dog tea sea sky day".split()
)


def write_data(file: Path, rows: int = 512, words: int = 60) -> None:
    """Comparisons of random words: prompts and answers of about `words` tokens."""
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=words))

    lines = (json.dumps({"prompt": text(), "chosen": text(), "rejected": text()}) for _ in range(rows))
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_model(preset: str, folder: Path) -> None:
    """A model of the preset's shape with random weights in bfloat16, and a small tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlhf_lora.config import compose
    from rlhf_lora.mini.text_base import TextBaseSettings, train_tokenizer

    shape = compose(f"model={preset}").model.shape
    tokenizer = train_tokenizer([" ".join(WORDS)] * 50, TextBaseSettings())
    config = AutoConfig.for_model(
        "qwen3" if preset.startswith("qwen3") else "llama", vocab_size=shape.vocab, hidden_size=shape.hidden,
        intermediate_size=shape.mlp, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, tie_word_embeddings=shape.tied,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(preset: str, stage: str, overrides: list[str], home: Path) -> dict[str, Any]:
    """One stage: estimate and peak in GiB, seconds; what went wrong, where something did."""
    run = [sys.executable, "-m", "rlhf_lora"]
    plan = subprocess.run([*run, "plan", "--json", *overrides, *STAGES[stage]], capture_output=True, encoding="utf-8")
    if plan.returncode:
        return {"model": preset, "stage": stage, "error": plan.stderr[-2000:]}
    estimate = max(part["memory_gib"] for part in json.loads(plan.stdout)["stages"])
    run_dir = home / "runs" / f"{preset}-{stage}"
    row = {"model": preset, "stage": stage, "overrides": [*overrides, *STAGES[stage]], "estimate_gib": estimate}
    try:
        summary = measured.train([*overrides, *STAGES[stage]], run_dir, home / "cache")["summary"]
    except RuntimeError as error:  # out of memory, say: what does not fit is a figure too
        return row | {"error": str(error)}
    row |= {"peak_gib": summary["peak_memory_gib"], "seconds": summary["seconds"]}
    if stage == "ppo":
        lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
        updates = [found for found in map(json.loads, lines) if found["stage"] == "policy"]
        answers = updates[-1]["episode"] / len(updates)  # of each update
        tokens = sum(found["completions/mean_length"] for found in updates) * answers
        row["rollout_tokens_per_second"] = tokens / summary["seconds"]["rollout"]
        spent = sum(summary["seconds"][part] for part in ("rollout", "score", "update"))
        row["seconds_per_update"] = spent / len(updates)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | stage | plan (GiB) | peak (GiB) | rollout tokens/s | s an update |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['model']} | {row['stage']} | failed: {row['error'].strip().splitlines()[-1]} | | | |")
            continue
        speed = f"{row['rollout_tokens_per_second']:.0f}" if "rollout_tokens_per_second" in row else ""
        update = f"{row['seconds_per_update']:.1f}" if "seconds_per_update" in row else ""
        figures = f"{row['estimate_gib']:.2f} | {row['peak_gib']:.2f} | {speed} | {update}"
        lines.append(f"| {row['model']} | {row['stage']} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = measured.parser(__doc__, RESULT)
    parser.add_argument("--models", nargs="+", default=["qwen3_0_6b", "qwen3_1_7b", "qwen3_4b"])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--hardware", default="gpu_12gb", help="a preset of conf/hardware; cpu tries the script itself")
    given, extra = parser.parse_known_args()
    if given.table:
        print(table(measured.read(given.to)))
        return
    import torch

    from rlhf_lora.software import versions

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    if card == "none" and given.hardware != "cpu":
        raise SystemExit("no CUDA card: nothing is measured (--hardware cpu tries the script itself)")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_data(home / "pairs.jsonl")
        for preset in given.models:
            write_model(preset, home / preset)
            overrides = [
                f"model={preset}", f"model.path={home / preset}", "model.template=plain", f"hardware={given.hardware}",
                "dataset=jsonl", f"dataset.path={home / 'pairs.jsonl'}", "sft.epochs=1", "reward_model.epochs=1",
                "optimizer.epochs=1", "evaluation.prompts=4", "cache=false",
            ]  # fmt: skip
            on_policy = ["optimizer.updates=3", "optimizer.prompts_per_update=32", "optimizer.minibatch_size=16"]
            for stage in given.stages:
                more = on_policy if stage == "ppo" else []
                rows.append(measure(preset, stage, [*overrides, *more, *extra], home))
                measured.write(given.to, rows, card=card, versions=versions())
                print(table(rows[-1:]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
