"""A finished run, opened: its base, its policy and its reward, ready to answer. No dataset is read.

from rlhf_lora import answer
answer("runs/mine", ["may i have tea soup and bread ? waiter:"], best_of=4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rlhf_lora import derive, plan_checks, progress, registry
from rlhf_lora.best_of_n import AT_ONCE, Best, pick
from rlhf_lora.config import recompose
from rlhf_lora.errors import ConfigError, DataError, UserError
from rlhf_lora.mini import bases
from rlhf_lora.plan import Plan, cache_folder
from rlhf_lora.plan_stages import StagePlan
from rlhf_lora.records import ASSISTANT, Data, Message, Prompt, Sample, Score, named_seed, transcript
from rlhf_lora.run_folder import RunFolder, find_run
from rlhf_lora.schema import PLUGIN_GROUPS
from rlhf_lora.sources import Sources
from rlhf_lora.splits import Splits

NOT_ASKED = Score.none("nobody was asked for a score")


class FinishedRun:
    """A run with its model in memory. Use it in a `with`, or close it: a reward may hold a process or a connection.

    Args:
        plan: of the run. folder: where its adapters are. adapter: what answers as the policy.

    Raises:
        ConfigError: the plan wants a card that is not here. ModelError: the adapter is another base's.
    """

    def __init__(self, plan: Plan, folder: RunFolder, adapter: Path):
        import torch

        from rlhf_lora.assembly import Assembly, opened

        if plan.spec.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "torch finds no CUDA card", where="hardware.device=cuda", fix="hardware=cpu, or install a CUDA build of torch"
            )  # fmt: skip
        if plan.config.hardware.threads:
            torch.set_num_threads(plan.config.hardware.threads)
        if plan.mini is not None:
            plan = replace(plan, spec=replace(plan.spec, path=str(bases.ensure(plan.cache_dir, plan.mini))))
        self.plan, self.folder = plan, folder
        self.parts = Assembly(plan, folder)
        self.backbone = self.parts.backbone(adapter)
        self.ctx = self.parts.context(self.backbone)
        self.engine = opened(plan.rollout, self.ctx)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if "scorer" in vars(self):
            self.scorer.close()

    @cached_property
    def scorer(self) -> Any:
        """The run's reward, opened when it is first asked for.

        Raises:
            UserError: the run has none that could score: it is learned, and this run trained no reward model.
        """
        found = self.parts.judges(self.ctx)
        if "score" not in found:
            raise UserError(
                f"this run has no reward model to choose with (reward={self.plan.config.reward.name})",
                where=str(self.folder.path), fix="name another reward: reward=NAME, or reward=learned reward.path=RUN",
            )  # fmt: skip
        return found["score"]

    @cached_property
    def conversational(self) -> bool:
        """Whether the policy was trained on conversations; if not, a prompt is the text as it stands, and nothing precedes it."""
        chat = self.backbone.chat
        if chat.mode == "chat":
            return True
        rows = self.folder.read_samples("evaluation")
        for step in self.folder.sample_steps("policy")[:1] if not rows else ():
            rows = self.folder.read_samples("policy", step)
        if rows:
            return all(str(row["prompt"]).endswith(ASSISTANT) for row in rows)
        return chat.mode != "plain" and bool(chat.tokenizer.chat_template)

    def prompt(self, text: str, before: Sequence[Message] = ()) -> Prompt:
        """What the policy is asked: `text` as a user's turn behind the turns `before`, in the form that it was trained on."""
        if not self.conversational:
            return Prompt(text)
        messages = (*before, {"role": "user", "content": text})
        return Prompt(transcript(messages), messages)

    def answers(self, prompts: Sequence[Prompt], best_of: int = 1, seed: int = 0) -> list[Best]:
        """An answer to each prompt and its score; of `best_of` drawn answers the one that the run's reward likes best.

        Returns:
            (sample, score) for each prompt. The score has no value where nobody was asked (`best_of` 1), or where not one of
            the answers got any: then the sample is the first.

        Raises:
            ConfigError: `best_of` below 1. DataError: a prompt is too long, or lacks a column that the reward wants.
        """
        if best_of < 1:
            raise ConfigError(f"the best of {best_of} is no answer", where="best_of", fix="1 or more")
        self._check_lengths(prompts)
        scorer = self.scorer if best_of > 1 else None
        size, found = max(1, AT_ONCE // best_of), list[Best]()
        for start in progress.track(range(0, len(prompts), size), "answers") if len(prompts) > size else (0,):
            chunk = prompts[start : start + size]
            drawn = self.engine.generate(self.backbone, chunk, best_of, named_seed(seed, f"answer/{start}") >> 1)
            scores = scorer(drawn) if scorer is not None else [NOT_ASKED] * len(drawn)
            every = list(zip(drawn, scores, strict=True))
            for i in range(len(chunk)):
                mine = every[i * best_of : (i + 1) * best_of]
                found.append(pick(mine, named_seed(seed, f"tie/{start + i}")) or mine[0])
        return found

    def _check_lengths(self, prompts: Sequence[Prompt]) -> None:
        limit = self.plan.config.max_prompt_tokens
        for prompt in prompts:
            if (length := len(self.backbone.chat.prompt_ids(prompt))) > limit:
                raise DataError(
                    f"the prompt has {length} tokens, and this run takes {limit}", where=f"{prompt.text[:60]!r}",
                    fix="a shorter one, or a new conversation; max_prompt_tokens=N takes longer ones where the model does",
                )  # fmt: skip


def open_run(run: str, *overrides: str) -> FinishedRun:
    """Open the policy of a finished run; where it has none yet, its SFT model, and a line says so.

    Args:
        overrides: `rollout.temperature=0.7`, `rollout.max_new_tokens=64`, `reward=NAME`, `hardware.device=cpu`,
            `plugins=[FILE]` (a plugin file of the run has to be named again).

    Raises:
        UserError: no run folder, nothing in it that could answer, or an override that is wrong.
    """
    folder = find_run(run)
    trained = [
        name for name in ("policy", "revised_sft", "sft") if (folder.adapter(name) / "adapter_config.json").is_file()
    ]
    if not trained:
        raise UserError(
            f"{run} has no policy yet", where=str(folder.adapter("policy")), fix=f"finish it: rlhf-lora train … run_dir={run}"
        )  # fmt: skip
    if trained[0] != "policy":
        model = "model trained on revisions" if trained[0] == "revised_sft" else "SFT model"
        progress.stage("no policy yet", f"these are answers of the {model}")
    return FinishedRun(plan_of(folder, overrides), folder, folder.adapter(trained[0]))


def plan_of(folder: RunFolder, overrides: Sequence[str] = ()) -> Plan:
    """The plan of a run without its data: the file may be long gone, or on another machine.

    Raises:
        ConfigError, PluginError: as of `recompose`.
    """
    config = recompose(folder.config, overrides)
    dataset = registry.build("dataset", config.dataset) if config.model.path is None else None
    mini = derive.mini_settings(config, dataset)
    shape = derive.shape_of(config, mini)
    derive.derive(config, shape.hidden, derive.max_positions(config, mini), dataset)
    built: dict[str, Any] = {
        kind: registry.build(kind, config[kind]) if config[kind] is not None else None
        for kind in PLUGIN_GROUPS
        if kind != "dataset"
    }
    stages = {"sft": "sft", "revised_sft": "revised_sft", "reward_model": "reward", "policy": "policy"}
    there = [stage for stage, name in stages.items() if (folder.adapter(name) / "adapter_config.json").is_file()]
    return Plan(
        config=config, spec=derive.model_spec(config), mini=mini, dataset=dataset,
        sources=Sources((), Splits(), Splits(), Data()), inputs={}, run_dir=folder.path, cache_dir=cache_folder(),
        stages=tuple(StagePlan(stage, "", f"adapters/{stages[stage]}", 0, "") for stage in there), width=shape.hidden,
        start_adapter=plan_checks.start_adapter_of(config), **built,
    )  # fmt: skip


def answer(
    run: str | Path | FinishedRun, prompts: Sequence[str | Prompt], *overrides: str, best_of: int = 1, seed: int = 0
) -> list[Sample]:  # fmt: skip
    """Answers of a finished run's policy, one for each prompt.

    Args:
        run: its folder; or what `open_run` gave, which stays open: the model is loaded once for many calls.
        prompts: texts, or `Prompt`s for conversations and columns. Where the run was trained on conversations, a text is a
            user's turn.
        overrides: as of `open_run`.
        best_of: draw so many answers and keep the one that the run's reward likes best. Where a reward gives none of them a
            score, the first is kept, and a line on stderr counts such prompts.
        seed: another one draws other answers.

    Raises:
        UserError: no such run, a prompt that is too long, overrides for a run that is open.
    """
    if isinstance(run, FinishedRun):
        if overrides:
            raise ConfigError(
                f"the run is open already: {overrides[0]}", where="answer", fix="give overrides to open_run"
            )
        return _answered(run, prompts, best_of, seed)
    with open_run(str(run), *overrides) as opened:
        return _answered(opened, prompts, best_of, seed)


def _answered(run: FinishedRun, prompts: Sequence[str | Prompt], best_of: int, seed: int) -> list[Sample]:
    if isinstance(prompts, str | Prompt):
        raise ConfigError("one prompt is no list of prompts", where="answer", fix="answer(run, [prompt])")
    given = [run.prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    found = run.answers(given, best_of, seed)
    unscored = sum(score.value is None for _, score in found)
    if best_of > 1 and unscored:
        progress.stage(
            "best of", f"no answer to {unscored} of {len(found)} prompts got a score: there it is the first one"
        )
    return [sample for sample, _ in found]
