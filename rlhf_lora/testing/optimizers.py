"""`check_optimizer`: what the contracts `OnPolicyOptimizer` and `OffPolicyOptimizer` promise, an id for each promise.

On-policy ones are given tensors that are made up here; torch is loaded for them, when they are checked. Off-policy ones train
a model of their own, so of them only what can be seen without one is looked at.
"""

from __future__ import annotations

import copy
import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf_lora.contracts import Context, LearnsFrom
from rlhf_lora.plain import finite_number
from rlhf_lora.testing.findings import Broken, NotLookedAt, Report, Row, short
from rlhf_lora.testing.optimizer_steps import (
    ALONE,
    WIDTH,
    gradient_of,
    loss_of,
    made_up,
    refuse_not_finite,
    value_loss_of,
    with_advantages,
)
from rlhf_lora.testing.promises import Kit, add_quiet, add_shared
from rlhf_lora.testing.subjects import Subject, Watch, built, heavy_modules, nothing

KIT = Kit("optimizer")
SETTINGS = (
    "samples_per_prompt", "roles", "shared_trunk", "value_behind_end", "scale_scores", "mean_over", "updates",
    "prompts_per_update", "epochs", "minibatch_size", "beta", "max_kl", "ptx", "adamw", "value_adamw", "final_lr",
    "max_grad_norm",
)  # fmt: skip
METHODS = ("advantages", "loss", "after_update", "state", "restore")
LEARNS_FROM = typing.get_args(LearnsFrom)
METRICS = {"objective/kl": 3.0, "objective/scores": 0.5}
ROUNDS = 3
"""Updates that a restored optimizer is followed for."""


@dataclass
class Optimizer(Subject):
    """An optimizer under test."""

    @property
    def off_policy(self) -> bool:
        return hasattr(self.plugin, "learns_from") or not hasattr(self.plugin, "samples_per_prompt")

    def opened(self, plugin: Any = None) -> Any:
        plugin = self.plugin if plugin is None else plugin
        opener = getattr(plugin, "open", None)
        return self.ask(opener, Context(), sample="open(ctx)") if callable(opener) else plugin


def check_optimizer(
    thing: Any,
    raises: bool = True,
    *,
    heavy_before: frozenset[str] | None = None,
    watch: Watch = nothing,
    on_row: Callable[[Row], None] = nothing,
) -> Report:
    """Hold an optimizer to its contract; arguments as of `check_reward`.

    Raises:
        ContractError: a promise is broken. PluginError: `thing` is no optimizer.
    """
    before = heavy_modules() if heavy_before is None else heavy_before
    return KIT.report(Optimizer("optimizer", *built("optimizer", thing), before, watch, on_row), raises)


add_shared(KIT)

# --- off-policy -------------------------------------------------------------------------------------------------------


@KIT.promise("learns_from", "an off-policy one says what it learns from")
def _learns_from(subject: Optimizer) -> str:
    if not subject.off_policy:
        raise NotLookedAt("it learns from its own rollouts")
    source = getattr(subject.plugin, "learns_from", None)
    if source not in LEARNS_FROM:
        fix = 'learns_from = "pairs"; one on the on-policy loop has samples_per_prompt (OnPolicySettings gives it all)'
        raise Broken(short(source), f"one of {', '.join(LEARNS_FROM)}", fix, value=short(source))
    return str(source)


@KIT.promise("fit", "an off-policy one has fit(model, data, ctx)", needs=("learns_from",))
def _fit(subject: Optimizer) -> str:
    fit = getattr(subject.plugin, "fit", None)
    fix = "def fit(self, model, data, ctx) -> dict[str, float]: …"
    if not callable(fit):
        raise Broken("no method fit()", "one that trains and writes ctx.out", fix)
    try:
        inspect.signature(fit).bind(None, [], None)
    except TypeError as error:
        raise Broken(f"fit{inspect.signature(fit)}", "one that can be called with model, data, ctx", fix) from error
    return f"fit{inspect.signature(fit)}"


# --- on-policy --------------------------------------------------------------------------------------------------------


@KIT.promise("settings", "an on-policy one has what the loop reads")
def _settings(subject: Optimizer) -> str:
    if subject.off_policy:
        raise NotLookedAt("it trains in a model of its own")
    running = subject.opened()
    missing = [name for name in SETTINGS if not hasattr(running, name)]
    missing += [f"{name}()" for name in METHODS if not callable(getattr(running, name, None))]
    if missing:
        fix = "see OnPolicyOptimizer in rlhf_lora/contracts.py"
        raise Broken(f"no {', '.join(missing)}", "all that the loop reads", fix, value=missing[0])
    if "policy" not in running.roles or running.mean_over not in ("tokens", "sequences"):
        given = f"roles={running.roles!r}, mean_over={running.mean_over!r}"
        raise Broken(given, "a role 'policy', and a mean over tokens or sequences", "mend the attribute", value=given)
    return f"roles {', '.join(running.roles)}; {running.samples_per_prompt} samples per prompt"


@KIT.promise("advantages", "every token gets a finite advantage", needs=("settings",))
def _advantages(subject: Optimizer) -> str:
    import torch

    running, batch = subject.opened(), made_up(subject.plugin)
    made, metrics = with_advantages(subject, running, batch)
    found = getattr(made, "advantages_BT", None)
    if found is None or tuple(found.shape) != tuple(batch.mask_BT.shape):
        given = "None" if found is None else f"the shape {tuple(found.shape)}"
        fix = "return replace(batch, advantages_BT=…), metrics"
        raise Broken(
            f"advantages_BT: {given}", f"the shape {tuple(batch.mask_BT.shape)}", fix, "a batch of tensors", given
        )
    if not bool(torch.isfinite(found[batch.mask_BT]).all()):
        raise Broken(
            "advantages that are not finite", "finite ones", "look for a division by 0", "a batch of tensors", "nan"
        )
    refuse_not_finite(metrics, "advantages")
    return f"mean {float(found[batch.mask_BT].mean()):.3g}, {len(metrics)} metrics"


@KIT.promise("loss", "the loss is one finite number with a gradient", needs=("advantages",))
def _loss(subject: Optimizer) -> str:
    running = subject.opened()
    made, _ = with_advantages(subject, running, made_up(subject.plugin))
    loss, metrics, _ = loss_of(subject, running, made)
    found = f"{_one_number(loss, 'new_logprobs_BT', 'a minibatch of tensors'):.4g}, {len(metrics)} metrics"
    refuse_not_finite(metrics, "loss")
    if (
        "value" in running.roles and not running.shared_trunk
    ):  # it is asked once for each role, with that role's tensors alone
        loss, metrics = value_loss_of(subject, running, made)
        found += f"; of the value role {_one_number(loss, 'new_values_BT', ALONE):.4g}"
        refuse_not_finite(metrics, "loss")
    return found


def _one_number(loss: Any, hangs_on: str, sample: str) -> float:
    """The loss as a number.

    Raises:
        Broken: it is none, or has no gradient.
    """
    value = finite_number(loss.detach())
    if tuple(loss.shape) != () or value is None:
        given = f"{short(loss.detach())}"
        raise Broken(given, "one finite number", "take a mean over what mask_BT marks", sample, given)
    if not loss.requires_grad:
        raise Broken("a loss without gradient", f"one that hangs on {hangs_on}", "do not detach it", sample)
    return value


@KIT.promise("better", "better answers become likelier than worse ones", needs=("loss",))
def _better(subject: Optimizer) -> str:
    import torch

    running = subject.opened()
    made, _ = with_advantages(subject, running, made_up(subject.plugin))
    push_B = -(gradient_of(subject, running, made) * made.mask_BT).sum(1)
    count = subject.plugin.samples_per_prompt
    rewards = made.rewards_B.view(-1, count)
    wanted_B = (rewards - (rewards.mean(1, keepdim=True) if count > 1 else rewards.mean())).flatten()
    cosine = float(torch.nn.functional.cosine_similarity(push_B.double(), wanted_B.double(), dim=0))
    if not cosine > 0.3:
        given = f"cosine of push and reward {cosine:.3f}"
        raise Broken(
            given, "at least 0.3", "a loss is what is made smaller: look at the sign", "a batch of tensors", given
        )
    return f"cosine of push and reward {cosine:.3f}"


@KIT.promise("equal", "equal scores at the reference move nothing", needs=("loss",))
def _equal(subject: Optimizer) -> str:
    running = subject.opened()
    made, _ = with_advantages(subject, running, made_up(subject.plugin, equal=True))
    largest = float(gradient_of(subject, running, made).abs().max())
    if not largest <= 1e-6:
        given = f"a gradient of up to {largest:.3g}"
        fix = "subtract a baseline: rewards_B has mean 0 here, and is 0 everywhere"
        raise Broken(given, "at most 1e-6", fix, "a batch of equal scores", given)
    return f"gradient at most {largest:.2g}"


@KIT.promise("pads", "padded places get no gradient", needs=("loss",))
def _pads(subject: Optimizer) -> str:
    running = subject.opened()
    made, _ = with_advantages(subject, running, made_up(subject.plugin))
    largest = float(gradient_of(subject, running, made)[~made.mask_BT].abs().max())
    if largest != 0:
        given = f"a gradient of up to {largest:.3g} where mask_BT is False"
        raise Broken(given, "none", "multiply by mask_BT before taking the mean", "a batch of tensors", given)
    return "none"


@KIT.promise("inputs", "the batch is left as it was", needs=("advantages",))
def _inputs(subject: Optimizer) -> str:
    import torch

    running, batch = subject.opened(), made_up(subject.plugin)
    before = copy.deepcopy(batch)
    subject.ask(running.advantages, batch, sample="a batch of tensors")
    for name in ("tokens_BT", "mask_BT", "logprobs_BT", "ref_logprobs_BT", "scores_B", "rewards_B", "group_B"):
        if not torch.equal(getattr(batch, name), getattr(before, name)):
            raise Broken(f"{name} changed", "tensors as they were", "no operation in place", "a batch of tensors", name)
    return "unchanged"


@KIT.promise("state", "state() and restore() carry all that changes", needs=("loss",))
def _state(subject: Optimizer) -> str:
    fresh = subject.opened(
        copy.deepcopy(subject.plugin)
    )  # before anything has changed; without `open` the plugin itself runs
    running = subject.opened()
    subject.ask(running.after_update, METRICS, 64, sample="after_update(metrics, 64)")
    state = subject.ask(running.state, sample="state()")
    try:
        plain = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Broken(
            f"{short(state)}: {error}", "plain finite numbers", "state() -> {'beta': 0.1}", "state()", short(state)
        ) from error
    subject.ask(fresh.restore, plain, sample="restore(state)")
    again = subject.ask(fresh.state, sample="state() after restore(state)")
    if again != state:
        fix = "restore everything that state() gives"
        raise Broken(f"{short(again)} after restoring {short(state)}", "the same state", fix, "restore", short(again))
    for _ in range(ROUNDS):
        wanted, given = _round(subject, running), _round(subject, fresh)
        other = next((what for what in wanted if repr(wanted[what]) != repr(given[what])), None)
        if other is not None:
            fix = "put whatever after_update moves into state(), and take it back in restore()"
            what = f"other {other} than without the interruption"
            raise Broken(what, "an update that goes on as if nothing had happened", fix, "restore(state)", other)
    return ", ".join(state) or "nothing changes"


def _round(subject: Optimizer, running: Any) -> dict[str, Any]:
    """What one update gives, as plain values: of a batch that has moved away from the reference, so that β counts."""
    import torch

    batch = made_up(subject.plugin)
    batch.ref_logprobs_BT = batch.ref_logprobs_BT - 0.1 * batch.mask_BT * (1 + torch.arange(WIDTH))
    with torch.random.fork_rng(devices=[]):  # the run keeps torch's stream; it is not the optimizer's to carry
        torch.manual_seed(0)
        made, _ = with_advantages(subject, running, batch)
        loss, _, logprobs_BT = loss_of(subject, running, made)
        (push_BT,) = torch.autograd.grad(loss, logprobs_BT, allow_unused=True)
        found = {
            "advantages": made.advantages_BT,
            "returns": made.returns_BT,
            "loss": loss.detach(),
            "gradients": push_BT,
        }
        plain = {name: None if value is None else value.tolist() for name, value in found.items()}
        if "value" in running.roles and not running.shared_trunk:
            plain["value loss"] = value_loss_of(subject, running, made)[0].tolist()
        plain["answer of after_update()"] = subject.ask(
            running.after_update, METRICS, 64, sample="after_update(metrics, 64)"
        )
        plain["state()"] = subject.ask(running.state, sample="state()")
    return plain


add_quiet(KIT)
