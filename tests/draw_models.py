"""The tables of `docs/models.md`, made from the presets and the plan's own formula: `python tests/draw_models.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rlhf_lora.memory import ROLES, Memory, Shape, estimate

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
PROMPT_TOKENS = 256
ANSWERS = (128, 256, 512, 1024, 2048)
CARDS = ("gpu_8gb", "gpu_12gb", "gpu_16gb", "gpu_24gb")


def preset(group: str, name: str) -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def models() -> list[str]:
    """Presets with a shape, smallest first."""
    names = [file.stem for file in (ROOT / "conf" / "model").glob("*.yaml") if file.stem != "mini"]
    return sorted(names, key=lambda name: (Shape(**preset("model", name)["shape"]).parameters, name))


def peak(model: dict[str, Any], hardware: dict[str, Any], response_tokens: int) -> Memory:
    """The stage that needs the most, of SFT, reward model, DPO and PPO with a learned reward."""
    stages = [
        estimate(
            Shape(**model["shape"]), stage=stage, load_in_4bit=model["load_in_4bit"], dtype=model["dtype"],
            prompt_tokens=PROMPT_TOKENS, response_tokens=response_tokens,
            rollout_batch=hardware["rollout_batch"] or 16, micro_batch=hardware["micro_batch"] or 1,
            chunk=hardware["logprob_chunk"], gradient_checkpointing=model["gradient_checkpointing"],
            device_context=hardware["device"] == "cuda",
        )
        for stage in ROLES
    ]  # fmt: skip
    return max(stages, key=lambda memory: memory.total)


def longest(model: dict[str, Any], hardware: dict[str, Any]) -> int | None:
    """The longest of `ANSWERS` with which the model fits the card."""
    fitting = [n for n in ANSWERS if peak(model, hardware, n).fits(hardware["memory_gib"])]
    return max(fitting, default=None)


def fit_table() -> str:
    """Model × card: GiB with answers of 256 tokens, and the longest answers that fit."""
    heads = [f"{preset('hardware', card)['memory_gib']} GB" for card in CARDS]
    lines = [f"| `model=` | billions | {' | '.join(heads)} | CPU |", "|---|---:|" + "---:|" * (len(CARDS) + 1)]
    for name in models():
        model = preset("model", name)
        cells = []
        for card in CARDS:
            hardware = preset("hardware", card)
            tokens = longest(model, hardware)
            cells.append(f"{peak(model, hardware, 256).total_gib:.1f} · {tokens or 'no'}")
        cells.append(f"{peak(model, preset('hardware', 'cpu'), 256).total_gib:.1f}")
        billions = Shape(**model["shape"]).parameters / 1e9
        lines.append(f"| `{name}` | {billions:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def preset_table() -> str:
    """Model × hub id, layers that LoRA stands beside, arguments of the chat template."""
    lines = ["| `model=` | hub | LoRA beside | `model.template_kwargs` |", "|---|---|---|---|"]
    for name in models():
        model = preset("model", name)
        text = (ROOT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8")
        beside = re.findall(r"^# LoRA on all of \w+'s linear layers: (.*)$", text, flags=re.MULTILINE)[0]
        kwargs = ", ".join(f"{key}: {str(value).lower() if isinstance(value, bool) else value}"
                           for key, value in model["template_kwargs"].items())  # fmt: skip
        lines.append(f"| `{name}` | {model['path']} | {beside} | {f'`{{{kwargs}}}`' if kwargs else ''} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables made anew."""
    for mark, table in (("fit", fit_table()), ("presets", preset_table())):
        text = re.sub(
            rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)", lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
