"""The model card, README.md of a run folder: what was trained, from what, how well, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lora import feedback_text
from rlhf_lora.atomic import write_text
from rlhf_lora.controls import must_give
from rlhf_lora.run_folder import RunFolder, mended

_KINDS = {
    "sft": "supervised fine-tuning",
    "revised_sft": "supervised fine-tuning on revisions",
    "reward": "reward model (sequence classification)",
    "policy": "policy",
}


def write_model_card(folder: RunFolder, base: str | None = None, data: str | None = None) -> Path:
    """Write `README.md` from the run's configuration, summary and adapters.

    Args:
        base: the base model; default `model.path` of the configuration.
        data: the data in words; default the dataset's name and path.
    """
    config, summary = folder.config, folder.summary
    base = base or str(_of(config, "model", "path") or "the base model")
    data = data or " ".join(str(v) for v in (_of(config, "dataset", "name"), _of(config, "dataset", "path")) if v)
    adapters = [name for name in _KINDS if (folder.adapter(name) / "adapter_config.json").is_file()]
    what = ", ".join(f"{key} `{summary[key]}`" for key in ("optimizer", "reward", "seed") if key in summary)
    listed = "\n".join([*(f"- `adapters/{n}`: {_KINDS[n]}" for n in adapters), *_of_rounds(folder)])
    parts = [
        _front_matter(base),
        f"# {folder.name}\n\nLoRA adapters on `{base}`, trained with rlhf_lora{f' ({what})' if what else ''}.",
        _control(summary),
        "\n".join(f"**Trained with two: {line}.**" for line in mended(summary)),
        "## Adapters\n\n" + (listed or "None: the run has not finished."),
        "## Figures\n\n" + _figures(summary),
        _feedback(summary),
        _loading(base, adapters, bool(_of(config, "model", "load_in_4bit"))),
        f"## Data\n\n{f'`{data}`' if data else 'As config.yaml says'}. `samples/` holds prompts of it.",
        "## Settings\n\n`config.yaml` holds every setting, `versions.json` what it ran on, `metrics.jsonl` every step, "
        "`report.html` shows them.",
        "## Licence\n\nThe adapters inherit the licence of the base model; the data's terms may apply as well.",
    ]
    path = folder.path / "README.md"
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _of_rounds(folder: RunFolder) -> list[str]:
    """One line on what earlier rounds gave and were trained against; the last round's have the names above, too."""
    found = []
    for role in ("policy", "reward"):
        there = [file.parent.name for file in folder.adapters.glob(f"{role}_*/adapter_config.json")]
        found += [f"`adapters/{name}`" for name in sorted(there, key=lambda name: (len(name), name))]
    return [f"- of each round, the last as above: {', '.join(found)}"] if found else []


def _control(summary: Mapping[str, Any]) -> str:
    """Whoever finds the adapters is told that they were never meant to be good."""
    control = summary.get("control")
    return f"**Control, not a result: `{control}`.** {must_give(control)}" if control else ""


def _feedback(summary: Mapping[str, Any]) -> str:
    """Who labelled, where it was not people: whoever uses the adapters inherits what the judge likes."""
    lines = feedback_text.lines(summary)
    return "## AI feedback\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _front_matter(base: str) -> str:
    """What model hubs read. A local folder is no base they could name."""
    hub_id = base if base.count("/") == 1 and not base.startswith((".", "/", "~")) else None
    lines = ["library_name: peft", *([f"base_model: {hub_id}"] if hub_id else []), "tags: [rlhf, lora, rlhf_lora]"]
    return "---\n" + "\n".join(lines) + "\n---"


def _figures(summary: Mapping[str, Any]) -> str:
    """A table of the numbers there are; an interrupted run says so."""
    if not summary:
        return "The run has not finished; there are none yet."
    rows = []
    for part, title in (("gold", "gold reward"), ("policy", "reward")):
        figures = summary.get(part, {})
        if (rate := figures.get("win_rate_vs_reference")) is not None:
            low, high = figures.get("win_rate_ci95", (None, None))
            between = f" (95 % interval {low:.3g} to {high:.3g})" if low is not None else ""
            rows.append((f"win rate against the reference, by {title}", f"{rate:.3g}{between}"))
        if (rate := figures.get("win_rate_length_controlled")) is not None:
            rows.append((f"the same at equal length, by {title}", f"{rate:.3g}"))
        if (mean := figures.get("score_mean")) is not None:
            before = figures.get("score_mean_reference")
            rows.append((f"mean {title}", f"{mean:.3g}" + (f" (reference {before:.3g})" if before is not None else "")))
    if (kl := summary.get("policy", {}).get("kl_to_reference")) is not None:
        rows.append(("KL to the reference, nats per reply", f"{kl:.3g}"))
    model = summary.get("reward_model", {})
    if (accuracy := model.get("accuracy")) is not None:
        length = model.get("length_baseline")
        beside = f" (by length alone {length:.3g})" if length is not None else ""
        rows.append(("reward model accuracy on held-out pairs", f"{accuracy:.3g}{beside}"))
    if (auc := model.get("label_auc")) is not None:
        rows.append(
            ("reward model AUC on held-out labels", f"{auc:.3g} ({100 * model['label_bad_share']:.3g} % are bad)")
        )
    rows.append(("status", str(summary.get("status", "?"))))
    return "| what | value |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _loading(base: str, adapters: list[str], in_4bit: bool) -> str:
    if not adapters:
        return ""
    name = "policy" if "policy" in adapters else adapters[0]
    load = (
        "The base was loaded in 4 bits (NF4, double quantisation); loading it the same way gives the same model.\n\n"
        if in_4bit
        else ""
    )
    code = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")\n'
        f'model = PeftModel.from_pretrained(base, "adapters/{name}")\n'
    )
    if "reward" in adapters:
        code += (
            "\nfrom peft import AutoPeftModelForSequenceClassification\n\n"
            'reward = AutoPeftModelForSequenceClassification.from_pretrained("adapters/reward", num_labels=1)\n'
        )
    return f"## Loading\n\n{load}```python\n{code}```"


def _of(config: Mapping[str, Any], group: str, key: str) -> Any:
    node = config.get(group)
    return node.get(key) if isinstance(node, Mapping) else None
