"""What flows through the kit. Read this file and `contracts.py`, and the rest can be guessed.

    Prompt          what the model is asked: text, and the conversation when there is one
    Demonstration   a prompt and the answer a person would like                → SFT
    Pair            a prompt and two answers, the better one first             → reward model, DPO
    Label           a prompt, an answer, good or bad                           → KTO
    Sample          one completion: tokens, log-probs, finished or cut         ← rollout
    Score           a finite value, or *no value* with a kind and a reason     ← reward
    Comparison      a prompt and two answers, in the order they are read   → judge
    Verdict         which of two answers is better: A, B, tie, or none         ← judge
    Data            what a dataset loads: demonstrations, pairs, labels, prompts, and what was not used

A failure is never a number: a reward that could not be read is `Score.none(...)`, never `Score(0.0)`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, str]
"""One turn of a conversation: `{"role": "user" | "assistant" | "system", "content": "…"}`."""

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""How a conversation is written as plain text, in Anthropic's HH files and here."""

Missing = Literal["abstain", "error", "unreadable"]
"""Why a score has no value: the source declines, it failed, or its answer could not be read."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked.

    Attributes:
        text: the prompt as plain text, exactly what is tokenised when no chat template applies.
        messages: the conversation up to and including the last user turn, when the data has one.
        columns: further columns of the row, handed to rewards that ask for them by name.
        group: what decides the split; prompts of one group never land in two splits. Default: the text.
    """

    text: str
    messages: tuple[Message, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @classmethod
    def of(cls, sample: Sample) -> Prompt:
        """What a sample answers."""
        return cls(sample.prompt, None if sample.messages is None else tuple(sample.messages))

    @property
    def split_key(self) -> str:
        return self.group or self.text.strip()

    @property
    def id(self) -> str:
        """16 hex digits that name this prompt in files and logs."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the answer to imitate.

    Attributes:
        every_turn: imitate the earlier replies of the prompt's conversation too. Right where a whole conversation is
            an example; not where only the last reply was chosen by somebody.
        finished: False for an answer that was cut at a length limit: nobody is to learn that it ends there.
    """

    prompt: Prompt
    completion: str
    every_turn: bool = False
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, the better one first.

    Attributes:
        margin: by how much the better one is better, on the labeller's scale; None when not known.
        label: P(chosen is better) in [0.5, 1]; 1 for a hard label. ½ is a tie: it can be learned from, and nothing is
            judged on it.
        finished: of chosen and rejected: False for one that was cut at a length limit, which has no end to learn.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None
    label: float = 1.0
    finished: tuple[bool, bool] = (True, True)


@dataclass(frozen=True, slots=True)
class Label:
    """One answer that somebody called good or bad.

    Attributes:
        finished: False for an answer that was cut at a length limit: nobody is to learn that it ends there.
    """

    prompt: Prompt
    completion: str
    good: bool
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several answers to one prompt in somebody's order. Several at once say more than their pairs one by one: see
    `objectives.preference.kwise`.

    One answer picked out of N (a *choice*: Ziegler et al. 2019) is a ranking too: the picked one first, the others tied.

    Attributes:
        completions: the answers, two or more.
        ranks: one for each; lower is better, equal ranks are ties. They are not all equal.

    Raises:
        ValueError: fewer than two answers, not as many ranks, a rank that is no finite number, or ties alone.
    """

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.completions) < 2 or len(self.ranks) != len(self.completions):
            raise ValueError(
                f"a Ranking of {len(self.completions)} answers has {len(self.ranks)} ranks; it needs two or more"
            )
        if not all(math.isfinite(rank) for rank in self.ranks):
            raise ValueError(f"the ranks {self.ranks} of a Ranking are not all finite numbers")
        if len(set(self.ranks)) < 2:
            raise ValueError("a Ranking of ties alone says nothing; leave it out")

    @classmethod
    def choice(cls, prompt: Prompt, completions: Sequence[str], best: int) -> Ranking:
        """One answer picked out of several: the index `best`, from 0."""
        return cls(prompt, tuple(completions), tuple(1.0 if i == best else 2.0 for i in range(len(completions))))

    @property
    def best(self) -> int | None:
        """Index of the best answer; None where several share the first rank."""
        first = min(self.ranks)
        return self.ranks.index(first) if self.ranks.count(first) == 1 else None

    def pairs(self) -> list[Pair]:
        """Every two answers of different rank and different words, the better one first."""
        found = []
        for i in range(len(self.ranks)):
            for j in range(i + 1, len(self.ranks)):
                first, second = (i, j) if self.ranks[i] < self.ranks[j] else (j, i)
                if self.ranks[i] != self.ranks[j] and self.completions[i] != self.completions[j]:
                    found.append(Pair(self.prompt, self.completions[first], self.completions[second]))
        return found


@dataclass(frozen=True, slots=True)
class Rating:
    """One answer and how good somebody found it, on their own scale; higher is better.

    Raises:
        ValueError: the value is no finite number.
    """

    prompt: Prompt
    completion: str
    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a Rating needs a finite value, got {self.value!r}")


@dataclass(slots=True)
class Sample:
    """One completion of one prompt.

    Attributes:
        prompt: the prompt's text.
        text: the completion's text, without special tokens, up to a stop string (`rollout.stop`) if one came.
        messages: the conversation that led to it, when the prompt has one.
        columns: the prompt's further columns.
        tokens: response token ids; when `finished`, with the end token or with what completed a stop string.
        logprobs: log π(token) at the sampling temperature, one per token, in nats.
        finished: True when the end token or a stop string was sampled; False when the length limit cut it.
    """

    prompt: str
    text: str
    messages: Sequence[Message] | None = field(default=None, kw_only=True)
    columns: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    tokens: Sequence[int] | None = field(default=None, kw_only=True)
    logprobs: Sequence[float] | None = field(default=None, kw_only=True)
    finished: bool = field(default=True, kw_only=True)


@dataclass(frozen=True, slots=True)
class Score:
    """A finite reward, or no reward and why.

    Attributes:
        value: the reward; None when there is none.
        parts: named parts of the value, for logs and reports.
        reason: why it is so, or why there is none.
        kind: `"value"`, or how the value came to be missing.
        steps: where in the answer the value was earned, when the reward says so (a process reward): pairs of a place in
            the text, in characters from 0 to its length, and what was earned up to there. They sum to the value. PPO gives
            each to the token that the place falls into; optimizers that see whole answers alone use the value.

    Raises:
        ValueError: the value, a part or a step is not a finite number, or the steps do not sum to the value.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    kind: Literal["value", "abstain", "error", "unreadable"] = "value"
    steps: Sequence[tuple[int, float]] = ()

    def __post_init__(self) -> None:
        if self.kind == "value" and (self.value is None or not math.isfinite(self.value)):
            raise ValueError(f"a Score needs a finite value, got {self.value!r}; for no value use Score.none(reason)")
        for name, part in self.parts.items():
            if not math.isfinite(part):
                raise ValueError(f"the part '{name}' of a Score is {part!r}, not finite")
        if self.steps:
            total = math.fsum(earned for _, earned in self.steps)
            if self.value is None or not abs(total - self.value) <= 1e-6 * max(1.0, abs(self.value)):
                raise ValueError(f"the steps of a Score sum to {total!r}, its value is {self.value!r}")
            if any(place < 0 for place, _ in self.steps):
                raise ValueError("a step of a Score stands before the text")

    @classmethod
    def of_steps(cls, steps: Sequence[tuple[int, float]], **rest: Any) -> Score:
        """A process reward: what was earned up to each place in the text, in characters; the value is the sum.

        A reward per token of the answer is the same thing: `[(end of the token's text, reward), …]`.
        """
        return cls(math.fsum(earned for _, earned in steps), steps=tuple(steps), **rest)

    @classmethod
    def none(cls, reason: str, kind: Missing = "abstain") -> Score:
        """No value. It is counted and left out of the update, never taken for 0."""
        return cls(None, reason=reason, kind=kind)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt, in the order in which a judge is to read them."""

    prompt: Prompt
    a: str
    b: str

    @property
    def swapped(self) -> Comparison:
        return Comparison(self.prompt, self.b, self.a)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of two answers. `choice` is None when the judge could not be read.

    Attributes:
        choice: `"A"`, `"B"`, `"tie"` or None.
        probability_a: P(A is better) in [0, 1] when the judge gives one.
    """

    choice: Literal["A", "B", "tie"] | None
    probability_a: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unused:
    """A row that was not used: where it stands and why not."""

    where: str
    reason: str


@dataclass(frozen=True)
class Data:
    """What a dataset loads. Any of the lists may be empty; a stage that needs an empty one says so.

    Attributes:
        test: further data for the final evaluation alone; then nothing of the rest is kept back for it.
        gold: name of the reward that is the truth for this data, when there is one (synthetic tasks).
        unused: rows that were not used, each with its reason.
        rows: how many rows were used; one row may give several records. None: as many as there are records.
        left_out: comparisons inside used rows that gave no pair, by reason (a tie is no win).
        format: the format that was recognised, in words.
    """

    demonstrations: Sequence[Demonstration] = ()
    pairs: Sequence[Pair] = ()
    labels: Sequence[Label] = ()
    prompts: Sequence[Prompt] = ()
    test: Data | None = None
    gold: str | None = None
    unused: Sequence[Unused] = ()
    rows: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    format: str = ""
    rankings: Sequence[Ranking] = ()
    """Answers in order. Their pairs are among `pairs`, or `pairs` is empty and the kit makes them."""
    ratings: Sequence[Rating] = ()
    """Answers with a value. Where several answers to one prompt were rated, that is a ranking and pairs: as above."""
    remarks: Sequence[str] = ()
    """What else is known of the data, in words: the plan shows it."""


def prompt_of(record: Any) -> Prompt:
    """The prompt of a record of any kind; a prompt is its own."""
    return record if isinstance(record, Prompt) else record.prompt


def named_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for a named stream: the same on every machine, unrelated between names."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for models without a chat template: what follows is the assistant's reply."""
    heads = {"user": f"{HUMAN} ", "assistant": f"{ASSISTANT} ", "system": ""}
    system = [turn for turn in messages if turn["role"] == "system"]
    others = [turn for turn in messages if turn["role"] != "system"]
    return "".join(heads[turn["role"]] + turn["content"] for turn in (*system, *others)) + ASSISTANT
