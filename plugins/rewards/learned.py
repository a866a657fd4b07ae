"""A reward model trained on comparisons, as one more adapter and head on the shared base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.errors import ModelError
from rlhf_lora.records import Prompt, Sample
from rlhf_lora.registry import reward

if TYPE_CHECKING:
    from rlhf_lora.contracts import Context


@reward("learned")
class Learned:
    """The reward model: this run's own, or one trained before.

    Attributes:
        path: run folder or adapter folder of a trained reward model; null = train one in this run.
    """

    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            reward_folder(self.path)  # what is not there is said before anything runs

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that must have run before this reward can score."""
        return ("reward_model",) if self.path is None else ()

    @property
    def folder(self) -> Path | None:
        """The adapter folder that `path` means; None while there is none.

        Raises:
            ModelError: `path` holds no reward model.
        """
        return None if self.path is None else reward_folder(self.path)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        raise ModelError(
            "a learned reward needs its model", where="reward=learned", fix="use it in a run, where it is opened"
        )

    def open(self, ctx: Context) -> OpenLearned:
        assert self.folder is not None and ctx.backbone is not None
        return OpenLearned(ctx.backbone, self.folder)


class OpenLearned:
    """The reward role on the backbone: head at the last token, then gain and bias."""

    def __init__(self, backbone: Any, folder: Path):
        from rlhf_lora.model_spec import base_hash

        about = _about(folder / "reward.json")
        for key, here, what in (
            ("base_hash", base_hash(backbone.spec.path, backbone.spec.revision), "another base model"),
            ("template_hash", backbone.chat.template_hash, "another chat template"),
        ):
            if about.get(key) not in (None, here):
                raise ModelError(
                    f"this reward model was trained with {what}",
                    where=str(folder / "reward.json"),
                    fix="use the same model and template settings, or train a reward model in this run (reward.path=null)",
                )
        self.backbone, self.gain, self.bias = backbone, about["gain"], about["bias"]
        self.role = _role_of(backbone, folder)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        chat = self.backbone.chat
        prompts = [Prompt.of(sample) for sample in samples]
        # An answer that ended at a stop string is read as it is shown: without that string, with the end token.
        responses = [
            list(s.tokens)
            if s.tokens and (not s.finished or s.tokens[-1] in chat.stop_ids)
            else chat.response_ids(s.text, s.finished, prompt)
            for s, prompt in zip(samples, prompts, strict=True)
        ]
        raw = self.backbone.sequence_scores(self.role, [chat.prompt_ids(prompt) for prompt in prompts], responses)
        return [self.gain * value + self.bias for value in raw]


def _role_of(backbone: Any, folder: Path) -> str:
    """The role of this reward adapter: each has one of its own, however many are on the base, and is loaded once."""
    wanted = folder.resolve()
    taken = [name for name in backbone.roles if name == "reward" or name.startswith("reward_")]
    for name in taken:
        if (start := backbone.roles[name].start) is not None and start.resolve() == wanted:
            return name
    name = f"reward_{len(taken) + 1}" if taken else "reward"
    backbone.add_role(name, start=folder, head=True)
    return name


def _about(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text("utf-8"))
        return {**about, "gain": float(about["gain"]), "bias": float(about["bias"])}
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"reward.json cannot be read: {error}", where=str(file), fix="train the reward model again"
        ) from error


def reward_folder(path: str) -> Path:
    """The reward adapter of a run folder, or the adapter folder itself.

    Raises:
        ModelError: neither.
    """
    for folder in (Path(path) / "adapters" / "reward", Path(path)):
        if (folder / "reward.json").is_file() and (folder / "adapter_model.safetensors").is_file():
            return folder
    raise ModelError(
        f"no reward model in {path}", where=f"reward.path={path}",
        fix="give a run folder with adapters/reward, or a folder with adapter_model.safetensors and reward.json",
    )  # fmt: skip
