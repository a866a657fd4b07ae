"""`check_rollout`: what the contract `RolloutEngine` promises, an id for each promise.

An engine is tried on a Llama of 64 channels that is made here in a few seconds, or on a backbone that is given.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lora.contracts import Context
from rlhf_lora.records import Prompt, Sample
from rlhf_lora.testing import samples as inputs
from rlhf_lora.testing.findings import Broken, NotLookedAt, Report, Row, short
from rlhf_lora.testing.promises import Kit, add_quiet, add_shared
from rlhf_lora.testing.subjects import Subject, Watch, built, heavy_modules, nothing

KIT = Kit("rollout")
PROMPTS = tuple(Prompt.of(sample) for sample in inputs.ordinary()[:2])
EACH, SEED, LONGEST = 3, 7, 6


@dataclass
class Engine(Subject):
    """An engine under test, and what it sampled: `EACH` answers to each of two prompts."""

    source: Any = None
    backbone: Any = None
    samples: list[Sample] = field(default_factory=list)

    def generate(self, seed: int = SEED, n: int = EACH) -> list[Sample]:
        about = f"{len(PROMPTS)} prompts, n={n}, seed={seed}"
        got = self.ask(self.source.generate, self.backbone, list(PROMPTS), n, seed, sample=about)
        if not isinstance(got, list) or not all(isinstance(sample, Sample) for sample in got):
            raise Broken(short(got), "a list of Sample", "return [Sample(prompt.text, text, …), …]", about, short(got))
        return got


def check_rollout(
    thing: Any,
    raises: bool = True,
    *,
    backbone: Any = None,
    heavy_before: frozenset[str] | None = None,
    watch: Watch = nothing,
    on_row: Callable[[Row], None] = nothing,
) -> Report:
    """Hold a rollout engine to its contract; arguments as of `check_reward`.

    Args:
        backbone: a `Backbone` with the role policy; default: a tiny one that is made here.

    Raises:
        ContractError: a promise is broken. PluginError: `thing` is no rollout engine.
    """
    before = heavy_modules() if heavy_before is None else heavy_before
    subject = Engine("rollout", *built("rollout", thing), before, watch, on_row, backbone=backbone)
    with tempfile.TemporaryDirectory(prefix="rlhf-lora-rollout-") as folder:
        subject.source = _Later(subject, Path(folder))
        return KIT.report(subject, raises)


class _Later:
    """Opens the engine, and makes the tiny backbone, when it is first used: `cheap` is looked at before."""

    def __init__(self, subject: Engine, folder: Path):
        self.subject, self.folder = subject, folder

    def generate(self, *given: Any) -> Any:
        subject = self.subject
        subject.backbone = subject.backbone or tiny_backbone(self.folder)
        plugin = subject.plugin
        if getattr(plugin, "max_new_tokens", 1) is None and dataclasses.is_dataclass(plugin):
            plugin = dataclasses.replace(plugin, max_new_tokens=LONGEST)  # type: ignore[type-var]
        opener = getattr(plugin, "open", None)
        subject.source = (
            opener(Context(backbone=subject.backbone, chat=subject.backbone.chat)) if callable(opener) else plugin
        )
        return subject.source.generate(subject.backbone, *given[1:])


def tiny_backbone(folder: Path) -> Any:
    """A backbone on a tiny base that has hardly been trained, with the role policy."""
    from rlhf_lora.backbone import Backbone
    from rlhf_lora.mini.base import BaseSettings, build_base
    from rlhf_lora.model_spec import LoraSpec, ModelSpec

    build_base(folder, BaseSettings(steps=2, batch=4))
    made = Backbone(ModelSpec(str(folder), load_in_4bit=False, lora=LoraSpec(r=4, alpha=8)))
    made.add_role("policy", trained=True)
    return made


add_shared(KIT)


@KIT.promise("settings", "it says its temperature and its longest answer")
def _settings(subject: Engine) -> str:
    for name in ("temperature", "max_new_tokens"):
        if not hasattr(subject.plugin, name):
            raise Broken(f"no {name}", "a field of that name", f"add it: {name}: …", value=name)
    return f"temperature {subject.plugin.temperature}, max_new_tokens {subject.plugin.max_new_tokens}"


@KIT.promise("runs", "it samples", needs=("settings",))
def _runs(subject: Engine) -> str:
    subject.samples = subject.generate()
    return f"{len(subject.samples)} samples"


@KIT.promise("count", "n samples for each prompt", needs=("runs",))
def _count(subject: Engine) -> str:
    if len(subject.samples) != EACH * len(PROMPTS):
        given = f"{len(subject.samples)} samples for {len(PROMPTS)} prompts"
        raise Broken(
            given, f"{EACH * len(PROMPTS)} with n={EACH}", "n for each prompt", f"n={EACH}", str(len(subject.samples))
        )
    return f"{EACH} for each of {len(PROMPTS)}"


@KIT.promise("order", "all of prompt 0 come first, then all of prompt 1", needs=("count",))
def _order(subject: Engine) -> str:
    for at, sample in enumerate(subject.samples):
        wanted = PROMPTS[at // EACH].text
        if sample.prompt != wanted:
            fix = "[… for prompt in prompts for _ in range(n)]"
            raise Broken(short(sample.prompt), short(wanted), fix, _shown(sample, at), short(sample.prompt))
    return "in order"


@KIT.promise("tokens", "each token has its log-prob, at most 0", needs=("count",))
def _tokens(subject: Engine) -> str:
    for at, sample in enumerate(subject.samples):
        tokens, logprobs = list(sample.tokens or ()), list(sample.logprobs or ())
        if not tokens or len(tokens) != len(logprobs):
            given = f"{len(tokens)} tokens and {len(logprobs)} log-probs"
            raise Broken(given, "one log-prob for each token", "keep both while sampling", _shown(sample, at), given)
        worst = max(logprobs)
        if not worst <= 1e-6:
            raise Broken(
                f"a log-prob of {worst}", "at most 0", "log-probs are natural logs", _shown(sample, at), str(worst)
            )
    return f"{sum(len(sample.tokens or ()) for sample in subject.samples)} tokens"


@KIT.promise("text", "the text is what the tokens say", needs=("tokens",))
def _text(subject: Engine) -> str:
    if getattr(subject.plugin, "stop", None):
        raise NotLookedAt("it has stop strings, and the text ends before them")
    for at, sample in enumerate(subject.samples):
        said = subject.backbone.chat.decode(list(sample.tokens or ()))
        if said != sample.text:
            fix = "text = backbone.chat.decode(tokens)"
            raise Broken(short(sample.text), short(said), fix, _shown(sample, at), short(sample.text))
    return "equal"


@KIT.promise("finished", "an answer is finished exactly when its end token was sampled", needs=("tokens",))
def _finished(subject: Engine) -> str:
    if getattr(subject.plugin, "stop", None):
        raise NotLookedAt("it has stop strings, and an answer may end with one of them")
    for at, sample in enumerate(subject.samples):
        ended = list(sample.tokens or ())[-1] in subject.backbone.chat.stop_ids
        if bool(sample.finished) != ended:
            given = f"finished={sample.finished}, last token {list(sample.tokens or ())[-1]}"
            fix = "finished = tokens[-1] in backbone.chat.stop_ids"
            raise Broken(given, f"finished={ended}", fix, _shown(sample, at), str(sample.finished))
    return f"{sum(sample.finished for sample in subject.samples)} of {len(subject.samples)}"


@KIT.promise("logprobs", "log-probs are those of a fresh forward pass over the whole vocabulary", needs=("tokens",))
def _logprobs(subject: Engine) -> str:
    fresh = _fresh(subject.backbone, subject.samples, float(subject.plugin.temperature))
    pairs = [pair for sample, row in zip(subject.samples, fresh, strict=True)
             for pair in zip(sample.logprobs or (), row, strict=True)]  # fmt: skip
    differences = [abs(a - b) for a, b in pairs]
    if not max(differences) <= 1e-3:
        given = f"up to {max(differences):.3g} nats apart"
        fix = "log_softmax(logits.float() / temperature) over all tokens, before top-p or top-k"
        raise Broken(given, "at most 0.001", fix, f"temperature {subject.plugin.temperature}", given)
    return f"max |Δ| {max(differences):.2g} nats"


@KIT.promise("seed", "the same seed gives the same tokens, another one others", needs=("tokens",))
def _seed(subject: Engine) -> str:
    tokens = [list(sample.tokens or ()) for sample in subject.samples]
    again = [list(sample.tokens or ()) for sample in subject.generate()]
    if again != tokens:
        fix = "draw with a generator of your own: torch.Generator().manual_seed(seed)"
        raise Broken("other tokens for the same seed", "the same", fix, f"seed={SEED}", short(again))
    if [list(sample.tokens or ()) for sample in subject.generate(SEED + 1)] == tokens:
        raise Broken(
            "the same tokens for another seed",
            "others",
            "use the seed that is given",
            f"seed={SEED + 1}",
            short(tokens),
        )
    return "equal, and others"


add_quiet(KIT, needs=("runs",))


def _fresh(backbone: Any, samples: Sequence[Sample], temperature: float) -> list[list[float]]:
    prompts = [backbone.chat.prompt_ids(Prompt.of(sample)) for sample in samples]
    answers = [list(sample.tokens or ()) for sample in samples]
    found: list[list[float]] = backbone.sequence_logprobs("policy", prompts, answers, temperature)
    return found


def _shown(sample: Sample, at: int) -> str:
    return inputs.shown(sample, at)
