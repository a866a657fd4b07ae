"""What LoRA and 4 bits cost: the same PPO with all weights trained, with LoRA on float32, with LoRA on NF4.

    python benchmarks/full_vs_lora.py --seeds 11 12 13       writes benchmarks/results/full_vs_lora.json
    python benchmarks/full_vs_lora.py --table                prints the table of the last measurement

The kit trains adapters alone, so full fine-tuning is made here: `FullBackbone` gives the policy a copy of the base, SFT
merged into it, and trains every weight of it. SFT and reward model are those of LoRA on float32, from the cache, so that
the policy's training is the only difference. Its learning rate was chosen on tuning prompts with seed 101.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_lora.backbone import Backbone, Role
from rlhf_lora.loading import disable_dropout, load_base

RESULT = Path(__file__).parent / "results" / "full_vs_lora.json"
ARMS = {
    "full": ("all weights, float32", ("model.load_in_4bit=false",)),
    "lora": ("LoRA on float32", ("model.load_in_4bit=false",)),
    "nf4": ("LoRA on NF4 (the default)", ()),
}
FULL_LR = 3e-4


class FullBackbone(Backbone):
    """A backbone whose trained policy is no adapter but a model of its own; the other roles are as ever."""

    def add_role(self, name: str, *, start: Path | None = None, trained: bool = False, **rest: Any) -> None:
        if name != "policy" or not trained:
            return super().add_role(name, start=start, trained=trained, **rest)
        from peft import PeftModel

        model = load_base(self.spec)
        if start is not None:
            model = PeftModel.from_pretrained(model, str(start)).merge_and_unload()
        disable_dropout(model)
        self.full = model.eval()
        self.roles[name] = Role(name, adapter=False, trained=True)
        self._adapters[name] = dict(self.full.named_parameters())
        return self._restore_requires_grad()

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        shared = self.trunk, self.head_weight_VD
        with super().role(name):
            if name == "policy" and hasattr(self, "full"):
                self.trunk = getattr(self.full, self.full.base_model_prefix)
                self.head_weight_VD = self.full.get_output_embeddings().weight
            try:
                yield
            finally:
                self.trunk, self.head_weight_VD = shared

    def save_adapter(self, name: str, folder: Path) -> None:
        if name != "policy":
            return super().save_adapter(name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        return self.full.save_pretrained(folder)


def train_full(overrides: list[str]) -> None:
    """`rlhf-lora train` with a full policy, in this process."""
    from rlhf_lora import assembly, cli

    assembly.Backbone = FullBackbone  # type: ignore[misc]
    raise SystemExit(cli.run(["train", *overrides]))


def measure(seed: int, arm: str, home: Path, extra: list[str]) -> dict[str, Any]:
    """One run in a process of its own."""
    run_dir = home / "runs" / arm
    overrides = [f"seed={seed}", f"run_dir={run_dir}", *ARMS[arm][1], *extra]
    command = [sys.executable, "-m", "rlhf_lora", "train"]
    if arm == "full":
        command = [sys.executable, __file__, "--train-full"]
        overrides = [f"optimizer.adamw.lr={FULL_LR}", *overrides]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "RLHF_LORA_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *overrides], check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    return {"seed": seed, "arm": arm, "cpu_seconds": round(spent, 1), "overrides": overrides[:-1], "summary": summary}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per arm, means over seeds with every seed's figure behind."""
    lines = ["| the policy trains | gold win rate vs SFT | KL (nats) |", "|---|---|---|"]
    for arm, (named, _) in ARMS.items():
        runs = [row["summary"] for row in rows if row["arm"] == arm]
        if runs:
            wins = [(run["gold"]["win_rate_vs_reference"], *run["gold"]["win_rate_ci95"]) for run in runs]
            each = ", ".join(f"{win:.3f} [{low:.3f}, {high:.3f}]" for win, low, high in wins)
            kl = ", ".join(f"{run['policy']['kl_to_reference']:.1f}" for run in runs)
            lines.append(f"| {named} | **{statistics.mean(win for win, *_ in wins):.3f}**: {each} | {kl} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--train-full"]:
        train_full(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--table", action="store_true", help="print the table of the last measurement")
    parser.add_argument("--to", type=Path, default=RESULT)
    given, extra = parser.parse_known_args()
    if given.table:
        print(table(json.loads(given.to.read_text("utf-8"))["runs"]))
        return
    rows = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as home:
            rows += [measure(seed, arm, Path(home), extra) for arm in given.arms]
        machine = platform.processor() or platform.machine()
        found = {"machine": machine, "python": platform.python_version(), "overrides": extra, "runs": rows}
        given.to.parent.mkdir(parents=True, exist_ok=True)
        given.to.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
