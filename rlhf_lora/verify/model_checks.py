"""Checks of the model as it is padded, quantised and read: what decides a log-prob, and what must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lora.checks.registry import NotApplicable, Outcome, check, failed, judged, within
from rlhf_lora.padding import Padded, pad, positions
from rlhf_lora.verify.loop_checks import gaps, policy_backward, worst
from rlhf_lora.verify.subject import Subject

EXTRA = 5
"""Left pads that are added."""


@torch.no_grad()
def padded_logprobs(subject: Subject, change: Callable[[Padded], Padded], fill_id: int | None = None) -> list[Tensor]:
    """log-probs of all completions in one batch, after `change` to how it is padded."""
    fill_id = subject.chat.fill_id if fill_id is None else fill_id
    padded = change(pad(*subject.ids, fill_id, subject.backbone.device))
    with subject.backbone.role("policy"):
        hidden_BTD = subject.backbone.response_hidden(padded)
        logprobs_BT = subject.backbone.logprobs(hidden_BTD, padded.responses_BT, subject.temperature)
    return [row[mask] for row, mask in zip(logprobs_BT, padded.response_mask_BT, strict=True)]


def _apart(one: list[Tensor], other: list[Tensor]) -> float:
    return worst(gaps([row.tolist() for row in one], [row.tolist() for row in other]))


@check("C02", "pads on the left change no log-prob", source="lm-human-preference-details", needs="model")
def left_pads(subject: Subject) -> Outcome:
    def wider(padded: Padded) -> Padded:
        ids_BE = torch.full_like(padded.ids_BS[:, :1], subject.chat.fill_id).expand(-1, EXTRA)
        attention_BS = torch.cat([torch.zeros_like(ids_BE), padded.attention_BS], 1)
        return replace(
            padded, ids_BS=torch.cat([ids_BE, padded.ids_BS], 1), attention_BS=attention_BS,
            positions_BS=positions(attention_BS), prompt_width=padded.prompt_width + EXTRA,
        )  # fmt: skip

    found = _apart(padded_logprobs(subject, lambda padded: padded), padded_logprobs(subject, wider))
    return within(found, subject.limit(1e-4, 0.25), more=f" with {EXTRA} more pads")


@check(
    "C02",
    "a completion has the same log-probs alone and in a batch",
    source="lm-human-preference-details",
    needs="model",
)
def batch_composition(subject: Subject) -> Outcome:
    prompts, responses = subject.ids
    alone = [
        subject.backbone.sequence_logprobs("policy", [p], [r], subject.temperature)[0]
        for p, r in zip(prompts, responses, strict=True)
    ]
    together = subject.logprobs("policy")
    return within(worst(gaps(alone, together)), subject.limit(1e-4, 0.25), more=f", {len(alone)} completions")


@check(
    "C01", "what stands in padded places decides nothing", source="Ziegler et al. 2019, released code", needs="model"
)
def filler(subject: Subject) -> Outcome:
    chat = subject.chat
    other = next(i for i in range(len(chat.tokenizer)) if i != chat.fill_id and i not in chat.stop_ids)
    plain = padded_logprobs(subject, lambda padded: padded)
    found = {
        fill: _apart(plain, padded_logprobs(subject, lambda padded: padded, fill)) for fill in (other, chat.end_id)
    }
    return within(
        max(found.values()), subject.limit(1e-4, 0.25), more=f" with ids {chat.fill_id}, {other}, {chat.end_id}"
    )


@check("C04", "dropout is off in every pass", source="Ziegler et al. 2019; trl#4", needs="model")
def dropout(subject: Subject) -> Outcome:
    model = subject.backbone.model or subject.backbone.base
    active = [
        name for name, module in model.named_modules() if isinstance(module, nn.modules.dropout._DropoutNd) and module.p
    ]
    if active:
        return failed(f"{len(active)} modules have p > 0 (first: {active[0]})")
    one, other = policy_backward(subject), policy_backward(subject)
    apart = max(float((one[name] - other[name]).abs().max()) for name in one)
    scale = max(float(grad.abs().max()) for grad in one.values())
    # Atomic adds of a card may come in another order; dropout of 0.1 differs by about a third.
    return within(apart / max(scale, 1e-30), subject.limit(1e-5, 1e-2), "two passes with gradient: relative |Δ|")


# --- 4-bit ------------------------------------------------------------------------------------------------------------


class Dequantised(torch.autograd.Function):
    """x Wᵀ with the 4-bit weights as they are said to be, in float32, one layer in memory at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return (x.float() @ plain_weight(layer).T).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return (gradient.float() @ plain_weight(ctx.layer)).to(gradient.dtype), None


def plain_weight(layer: Any) -> Tensor:
    import bitsandbytes as bnb

    weight: Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.float()


@contextmanager
def dequantised(layers: list[Any]) -> Iterator[None]:
    """The same weights, without the 4-bit kernels."""
    for layer in layers:
        layer.forward = _forward_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward_of(layer: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y: Tensor = Dequantised.apply(x, layer)
        return y if layer.bias is None else y + layer.bias.to(y.dtype)

    return forward


@check(
    "Q1", "LoRA gradients through the 4-bit base are those of its dequantised weights",
    source="this kit; bitsandbytes repacks weights on AVX512-BF16", needs="model",
)  # fmt: skip
def gradient_through_4bit(subject: Subject) -> Outcome:
    if not subject.plan.spec.load_in_4bit:
        raise NotApplicable("model.load_in_4bit=false")
    import bitsandbytes as bnb

    layers = [module for module in subject.backbone.base.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert subject.samples  # passes without gradient come first: after one, repacked weights gave other gradients
    ours = policy_backward(subject)
    with dequantised(layers):
        right = policy_backward(subject)
    one, other = (torch.cat([g[name].flatten() for name in sorted(right)]).double() for g in (ours, right))
    figure = f"; |ours| / |right| = {float(one.norm() / other.norm()):.4f}, {len(layers)} NF4 layers"
    return within(float((one - other).norm() / other.norm()), subject.limit(1e-3, 0.1), "relative |Δ|", figure)


# --- tokens and text --------------------------------------------------------------------------------------------------


@check("E1", "the end token is sampled once, scored, and last", source="trl#1893, trl#3750; pad = eos", needs="model")
def end_token(subject: Subject) -> Outcome:
    stops, problems = subject.chat.stop_ids, []
    for sample in subject.samples:
        tokens = list(sample.tokens or ())
        early = [i for i, token in enumerate(tokens[:-1]) if token in stops]
        ends = bool(tokens) and (tokens[-1] in stops or bool(getattr(subject.engine, "stop", ())))
        if not tokens:
            problems.append("no token at all")
        elif early:
            problems.append(f"{len(tokens) - 1 - early[0]} tokens after the end token")
        elif sample.finished and not ends:
            problems.append("called finished without an end token")
        elif not sample.finished and tokens[-1] in stops:
            problems.append("ended, and called cut")
    finished = sum(sample.finished for sample in subject.samples)
    if problems:
        return failed(f"{len(problems)} of {len(subject.samples)} samples: {problems[0]}")
    return judged(True, f"{len(subject.samples)} samples, {finished} ended, {len(subject.samples) - finished} cut")


@check(
    "E2",
    "a demonstration's prompt gets no loss; its reply and end token do",
    source="trl#1623; pad = eos",
    needs="model",
)
def prompt_gets_no_loss(subject: Subject) -> Outcome:
    from rlhf_lora.records import Demonstration
    from rlhf_lora.stages import sft

    chat, trained = subject.chat, 0
    for prompt in subject.prompts:
        reply = chat.response_ids("yes", prompt=prompt)
        ((row, _),) = sft.tokenised(chat, [Demonstration(prompt, "yes")])
        labels = list(row["labels"])
        asked = len(labels) - len(reply)
        if any(label != sft.NO_LOSS for label in labels[:asked]):
            return failed(f"{sum(label != sft.NO_LOSS for label in labels[:asked])} of {asked} prompt tokens get loss")
        if labels[asked:] != reply or reply[-1] not in chat.stop_ids or (reply[:-1] and reply[-2] in chat.stop_ids):
            return failed(f"the reply's labels are {labels[asked:]}, its tokens {reply}")
        trained += len(reply)
    return judged(True, f"{trained} tokens of {len(subject.prompts)} replies get loss, none of their prompts")


@check("T1", "the generation prompt is the beginning of the whole conversation", source="RLHFlow#16", needs="model")
def template_prefix(subject: Subject) -> Outcome:
    chat, reply = subject.chat, "yes"
    talks = [prompt for prompt in subject.prompts if prompt.messages is not None or chat.mode == "chat"]
    if not talks or chat.mode == "plain" or not chat.tokenizer.chat_template:
        raise NotApplicable("prompts are plain text: no chat template is used")
    compared = 0
    for prompt in talks:
        messages = [*(prompt.messages or [{"role": "user", "content": prompt.text}])]
        text = chat.tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": reply}], tokenize=False, **chat.template_kwargs
        )
        whole = list(chat.tokenizer(str(text), add_special_tokens=False)["input_ids"])
        ours = chat.prompt_ids(prompt) + chat.response_ids(reply, prompt=prompt)
        at = next((i for i, (a, b) in enumerate(zip(ours, whole, strict=False)) if a != b), min(len(ours), len(whole)))
        if at < len(ours):
            said, meant = (chat.tokenizer.decode(ids[at : at + 4]) for ids in (ours, whole))
            return failed(f"differs at token {at} of {len(ours)}: {said!r} where the conversation has {meant!r}")
        compared += len(ours)
    return judged(True, f"{compared} tokens of {len(talks)} conversations agree")


@check("T2", "a prompt begins with one begin token at most", source="llm-course#33, axolotl#1616", needs="model")
def one_begin(subject: Subject) -> Outcome:
    begin = subject.chat.tokenizer.bos_token_id
    if begin is None:
        raise NotApplicable("the tokenizer has no begin token")
    doubled = [ids for ids in map(subject.chat.prompt_ids, subject.prompts) if ids[:2] == [begin, begin]]
    return judged(not doubled, f"{len(doubled)} of {len(subject.prompts)} prompts begin with two")
