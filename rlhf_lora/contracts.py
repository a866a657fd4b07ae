"""The six contracts a plugin can fulfil, and what each promises.

Axes, as suffixes of tensor names:  B sequence in a batch · T response position · S prompt + response position
                                    V vocabulary · D hidden width · K answer to one prompt
Masks are 1 (True) where a position counts. The end token counts: it is trained, scored and read.

A plugin is a frozen dataclass: cheap, equal after `build(saved config)`, picklable. What is heavy is made in
`open(ctx)`, which returns the object that does the work (default: the plugin itself); `close()` is optional.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from rlhf_lora.records import Data, Prompt, Sample, Score, Verdict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LearnsFrom = Literal["demonstrations", "pairs", "labels"]


@dataclass(frozen=True)
class Context:
    """What `open` is given. A reward that needs no model can ignore all of it.

    Attributes:
        seed: the run's seed.
        cache_dir: where things that can be made again may be kept.
        run_dir: the run folder, when there is one.
        backbone: the shared frozen base with its roles (`rlhf_lora.backbone.Backbone`), when there is one.
        chat: tokenizer and template of the policy (`rlhf_lora.chat.Chat`), when there is one.
        judge: the run's judge as its settings describe it, not opened: who asks it opens it, and closes it.
        device: where tensors live: "cpu", "cuda".
        known: what plugins found out when they were opened before in this start of the run, and need not find out again; each
            under a name of its own. In memory alone.
    """

    seed: int = 0
    cache_dir: Path | None = None
    run_dir: Path | None = None
    backbone: Any = None
    chat: Any = None
    judge: Any = None
    device: str = "cpu"
    known: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def tokenizer(self) -> Any:
        return None if self.chat is None else self.chat.tokenizer


@runtime_checkable
class RewardSource(Protocol):
    """Scores completions. Higher is better.

    Promises: one score per sample, in order; each finite, or none with a reason; the same for a sample whatever else is
    in the list; inputs untouched; an empty list gives an empty list; empty and cut-off text do not raise.

    Optional, on what `open` returns (or the plugin itself):
        on_device: it computes on the backbone's device. Then it is called in the main thread, without a deadline, and never
            while a rollout goes on. Default: True for what `open` returned, else False.
        deterministic: of the plugin, the same sample has the same score another day: only then scored answers are kept for
            other runs. Default True.
        whole_batch: a score depends on the other samples, so all of a rollout are given at once. Default False.
        call_seconds(count): the most seconds that a call with `count` samples takes by limits of its own; where that is more
            than `scoring.deadline`, it is the deadline. Default: `scoring.deadline` alone.
        check_prompts(prompts): of the plugin, before it is opened: the plan shows it the prompts that will be answered, and it
            raises UserError where a setting and the data do not go together.
        watch(update, samples, scores): after each update's samples were scored; gives further metrics, and may raise Stopped.
        calibrate(samples): called once before the first update with samples of the reference, where `needs_calibration` is
            not False; with `state()` and `restore(state)` (plain values) what it found goes on with a resumed run.

    Instead of `score`, a reward may have `compare(pairs) -> verdicts`, of pairs of samples (A, B) that answer the same
    prompt: the score is then the probability that an answer beats one of the reference's (`rlhf_lora.against`).
    """

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> Sequence[float | Score | None]:
        """Score samples; may be `async`. Keyword-only parameters without default are dataset columns, one value per
        sample."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Compares two answers. Unreadable is `choice=None`, never a coin flip.

    It reads A first: what the order does to its verdicts is taken out by whoever asks (`rlhf_lora.judging.orders`).

    Optional, on what `open` returns (or the plugin itself):
        compare_all(comparisons): many at once, one Verdict for each `Comparison`, in order; may be `async`.
        rate_all(answers): of (Prompt, str), one Score for each on the judge's own scale, in order; may be `async`.
        on_device: it computes on the backbone's device. Default: False.
        deterministic: of the plugin, the same question has the same answer another day: only then what is made of its answers
            is kept for other runs. Default: not.
        keeps_answers: of the plugin, opened once it repeats what it has said: asking it twice measures nothing. Default: not.
        needs_backbone: of the plugin, it works on the run's own base, so it can be opened only where that is. Default: False.
        own_spec: of the plugin, the model that it loads beside the base (`rlhf_lora.model_spec.ModelSpec`). Default: None.
        own_bytes(dtype): of the plugin, memory of that model, for the plan; None where nothing here says it. Default: 0.
        check_chat(chat, rates): of the plugin, before anything is loaded: the plan shows it tokenizer and template
            (`rlhf_lora.chat.Chat`) of its own model, or of the base where it needs that, and it raises UserError where it could
            not compare with these, or, where it is asked to (`rates`), not rate.
        contents(): of the plugin, what its settings only point at: name → hash of a file, a model, an adapter.
        not_compared: of the plugin, names of settings that a run may change when it is gone on with. Default: none.
    """

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict: ...


@runtime_checkable
class Dataset(Protocol):
    """Loads demonstrations, pairs, labels or prompts. Promises: the same settings give the same rows in the same
    order; no prompt is empty; every row of the source is used or listed in `unused` with a reason."""

    def load(self) -> Data: ...

    def fingerprint(self) -> str:
        """Hex digest of everything that decides what `load` returns, file contents included."""
        ...


@runtime_checkable
class RolloutEngine(Protocol):
    """Samples completions from the policy role.

    Promises: `n` samples per prompt, in order (all of prompt 0, then prompt 1, …); log-probs are those of a fresh
    forward pass at the same temperature, over the full vocabulary; the same seed gives the same tokens.

    Optional: a keyword `each`, called with (places in the list, their samples) as soon as some are finished, so that they
    can be scored while the rest is being sampled.
    """

    temperature: float
    max_new_tokens: int

    def generate(
        self, backbone: Any, prompts: Sequence[Prompt], n: int, seed: int, role: str = "policy"
    ) -> list[Sample]: ...


@runtime_checkable
class Tracker(Protocol):
    """Receives metrics, of the policy under their own names, of other stages as `STAGE/NAME`. `close` is called however
    the run ends, and may be called twice.

    Optional: `samples(step, rows)` receives what `samples/*.parquet` does, every `samples_every` updates: one mapping
    per completion, with `prompt`, `text`, `score` (None when there is none), `reason` and more.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass
class Batch:
    """One rollout as the optimizer sees it: tensors only, no model. Rows without a score are already gone.

    Attributes:
        tokens_BT: response token ids, right-padded.
        mask_BT: True on response tokens, the end token included.
        logprobs_BT: log π_old(token), captured while sampling.
        ref_logprobs_BT: log ρ(token) under the reference.
        values_BT: V_old at each response position, or None when the optimizer has no value role.
        scores_B: raw rewards, before KL, clipping or whitening.
        rewards_B: the same, shifted and scaled as the optimizer's `scale_scores` asks.
        steps_BT: what the reward gave before the end (`Score.steps`), in the unit of `rewards_B` and part of it; None
            when no score says where it was earned.
        scored_B: True where the score is the sample's own. Where it is not (`scoring.missing=group_mean`), it is the mean
            of the group, and no mean or deviation is taken over the row.
        finished_B: True where the end token was sampled.
        value_mask_BT: True where a value counts: where `mask_BT` is, and with `value_behind_end` on the place behind the
            end as well (left out: the same as `mask_BT`).
        group_B: index of the prompt each row answers.
        advantages_BT, returns_BT: filled in by `PolicyOptimizer.advantages`.
    """

    tokens_BT: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    ref_logprobs_BT: Tensor
    values_BT: Tensor | None
    scores_B: Tensor
    rewards_B: Tensor
    finished_B: Tensor
    group_B: Tensor
    advantages_BT: Tensor | None = None
    returns_BT: Tensor | None = None
    value_mask_BT: Tensor = None  # type: ignore[assignment]
    steps_BT: Tensor | None = None
    scored_B: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.value_mask_BT is None:
            self.value_mask_BT = self.mask_BT
        if self.scored_B is None:
            self.scored_B = self.finished_B.new_ones(len(self.scores_B))

    def __len__(self) -> int:
        return len(self.scores_B)

    def rows(self, index: Tensor) -> Batch:
        """The rows at `index`, as a batch of their own."""
        tensors: dict[str, Any] = {name: None if value is None else value[index] for name, value in vars(self).items()}
        return Batch(**tensors)


@dataclass
class Minibatch:
    """Some rows of a batch, and what the trained role says of them now.

    Attributes:
        batch: the rows, with advantages and returns.
        new_logprobs_BT: log π(token) with gradient; None when only the value role is being trained.
        new_values_BT: V with gradient; None when only the policy role is being trained.
    """

    batch: Batch
    new_logprobs_BT: Tensor | None = None
    new_values_BT: Tensor | None = None


@runtime_checkable
class OnPolicyOptimizer(Protocol):
    """Turns scored rollouts into a loss: functions of tensors, no model, no I/O.

    Promises: at the reference, equal scores move nothing but by rounding; finite metrics or an error; `state()` and
    `restore()` carry everything that changes between updates.

    Attributes:
        samples_per_prompt: completions per prompt.
        roles: which roles it trains: `("policy",)`, or with `"value"`.
        shared_trunk: the value head reads the policy's hidden states instead of having an adapter of its own.
        value_behind_end: give it one place more per answer that ended before it was cut, with the value that is read there.
        scale_scores: `reference` = give it rewards of mean 0 and deviation 1 on reference samples, so that β keeps its
            meaning; `demonstrations` = of mean 0 on demonstrations; `none` = as they are.
        mean_over: what `loss` is a mean over, so that minibatches can be cut: `tokens` or `sequences`.
        updates, prompts_per_update, epochs, minibatch_size: the shape of the loop; sizes in samples but for prompts.
        beta: KL strength in reward per nat.
        max_kl: end the epochs of an update above this ½ mean (log π/π_old)²; None = never.
        ptx: weight of the loss on demonstrations; 0 = none.
        adamw, value_adamw: the gradient optimizer of each trained role.
    """

    samples_per_prompt: int
    roles: tuple[str, ...]
    shared_trunk: bool
    value_behind_end: bool
    scale_scores: str
    mean_over: str
    updates: int
    prompts_per_update: int
    epochs: int
    minibatch_size: int
    max_grad_norm: float | None
    max_kl: float | None
    ptx: float
    final_lr: float
    adamw: Any
    value_adamw: Any

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """The batch with `advantages_BT` (and `returns_BT`) filled in, and metrics."""
        ...

    def loss(self, minibatch: Minibatch) -> tuple[torch.Tensor, dict[str, float]]:
        """A scalar loss over the given rows, and metrics. Called once per trained role when roles have adapters of
        their own (only that role's tensors are given), or once for both when they share a trunk."""
        ...

    def after_update(self, metrics: Mapping[str, float], samples: int) -> dict[str, float]:
        """Move controllers (adaptive KL) once the epochs are done; returns their values as metrics."""
        ...

    def state(self) -> dict[str, float]: ...

    def restore(self, state: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class FitContext:
    """What an off-policy optimizer is given beside model and data.

    Attributes:
        out: the adapter folder to write, in PEFT layout; published whole or not at all.
        seed: the stage's seed.
        log: called with (step, metrics) as training goes on.
        start_adapter: adapter folder that training starts from and that is the reference, or None for the bare base.
        reference: adapter folder of the reference where that is another one, as in a second round.
        bare_reference: the reference is the bare base, whatever training starts from.
        description: one word for progress bars.
        work_dir: where checkpoints of the stage itself may be kept, so that it goes on where it was interrupted.
        interrupted: gives the number of a signal that came, or None.
    """

    out: Path
    seed: int
    log: Any
    start_adapter: Path | None = None
    description: str = "train"
    work_dir: Path | None = None
    interrupted: Callable[[], int | None] | None = None
    reference: Path | None = None
    bare_reference: bool = False


@runtime_checkable
class OffPolicyOptimizer(Protocol):
    """Trains on data that exists already, in a model of its own, and leaves an adapter folder.

    Attributes:
        learns_from: which rows of the data it wants.

    Optional, of one whose rows a reward may make (the stage `answers`):
        rows_setting: of the class, the field that says where rows come from: `dataset`, `relabel`, `rollouts`; or
            `rows_from`, where there is no choice.
        samples_per_prompt, prompts: how many answers to how many prompts are rolled out; None = all prompts.
        rows_of(sets, seed): of `answer_sets.AnswerSet`s an `answer_sets.Made`: rows to fit to, and what gave none.
    """

    learns_from: LearnsFrom

    def fit(self, model: Any, data: Sequence[Any], ctx: FitContext) -> dict[str, float]:
        """Train on `data` with the model that the specification `model` describes (`backbone.ModelSpec`), write
        `ctx.out`, and return final metrics."""
        ...
