"""Which prompts are answered and revised, and what is learned beside the revisions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

from rlhf_lora.records import Demonstration, Prompt
from rlhf_lora.splits import Splits


def revised_prompts(config: DictConfig, splits: Splits) -> list[Prompt]:
    """The prompts of SFT's demonstrations, or the policy's, each once; those whose columns `revisions.where` names."""
    settings = config.revisions
    if settings.of == "sft":
        every = [demonstration.prompt for demonstration in splits.demonstrations]
    else:
        every = list(splits.prompts)
    found = {prompt.text: prompt for prompt in every if matches(prompt, settings.where)}
    return list(found.values())[: settings.prompts]


def matches(prompt: Prompt, where: Mapping[str, object]) -> bool:
    """Whether a prompt's columns have these values; a list of values: one of them."""
    for column, wanted in where.items():
        allowed = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
        if prompt.columns.get(column) not in allowed:
            return False
    return True


def with_helpful(
    revised: Sequence[Demonstration], given: Sequence[Demonstration], settings: DictConfig
) -> list[Demonstration]:  # fmt: skip
    """Revisions, and a share `revisions.helpful` of the data's demonstrations, by a hash of each.

    People's answers to prompts of the kind that was revised are left out: they would teach what the revisions took out.
    """
    prompts = {demonstration.prompt.text for demonstration in revised}
    others = [
        one for one in given
        if one.prompt.text not in prompts and not (settings.where and matches(one.prompt, settings.where))
    ]  # fmt: skip
    return [*revised, *(one for one in others if _lot(one) < settings.helpful)]


def _lot(one: Demonstration) -> float:
    said = f"helpful\n{one.prompt.text}\n{one.completion}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(said).digest()[:6], "big") / 2**48
