"""What LoRA and 4 bits cost: the same PPO with all weights trained, with LoRA on float32, with LoRA on NF4.

    python benchmarks/full_vs_lora.py --seeds 41 42 43       writes benchmarks/results/full_vs_lora.json
    python benchmarks/full_vs_lora.py --seeds 41 42 43 --gold   against the gold rule: writes full_vs_lora_gold.json beside it
    python benchmarks/full_vs_lora.py --table [--gold]       prints the table of the last measurement

The kit trains adapters alone, so full fine-tuning is made here: `FullBackbone` gives the policy a copy of the base, SFT
merged into it, and trains every weight of it. SFT and reward model are those of LoRA on float32, from the cache, so that
the policy's training is the only difference. Its learning rate was chosen on tuning prompts with seed 101; that of LoRA is
the default, and once more one that was chosen likewise.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measured

from rlhf_lora.backbone import Backbone, Role
from rlhf_lora.loading import disable_dropout, load_base

RESULT = measured.RESULTS / "full_vs_lora.json"
GOLD = measured.RESULTS / "full_vs_lora_gold.json"
COMMON = ("splits={sft: 15, reward_model: 45, prompts: 20, tuning: 5, final: 15}", "evaluation.prompts=1000")
ARMS = {
    "full": ("all weights, float32", ("model.load_in_4bit=false",)),
    "lora": ("LoRA on float32", ("model.load_in_4bit=false",)),
    "nf4": ("LoRA on NF4 (the default)", ()),
    "lora_tuned": ("LoRA on float32, lr 2e-3", ("model.load_in_4bit=false", "optimizer.adamw.lr=2e-3")),
}
FULL_LR = 1e-3


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
    overrides = [f"seed={seed}", *ARMS[arm][1], *extra]
    command = measured.TRAIN
    if arm == "full":
        command = (sys.executable, __file__, "--train-full")
        overrides = [f"optimizer.adamw.lr={FULL_LR}", *overrides]
    return {"seed": seed, "arm": arm, **measured.train(overrides, home / "runs" / arm, home / "cache", command)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per arm, means over seeds with every seed's figure behind."""
    lines = ["| the policy trains | gold win rate vs SFT | KL (nats) |", "|---|---|---|"]
    for arm, (named, _) in ARMS.items():
        runs = [row["summary"] for row in rows if row["arm"] == arm]
        if runs:
            kl = measured.figures([run["policy"]["kl_to_reference"] for run in runs], 1)
            lines.append(f"| {named} | {measured.rate([run['gold'] for run in runs])} | {kl} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--train-full"]:
        train_full(sys.argv[2:])
    parser = measured.parser(__doc__, RESULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[41, 42, 43])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--gold", action="store_true", help="train on the gold rule, so that no reward model differs")
    given, extra = parser.parse_known_args()
    extra = [*COMMON, *(["reward=orders_gold"] if given.gold else []), *extra]
    if given.gold and given.to == RESULT:
        given.to = GOLD
    if given.table:
        print(table(measured.read(given.to)))
        return
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as home:
            for arm in given.arms:
                rows.append(measure(seed, arm, Path(home), extra))
                measured.write(given.to, rows)
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
