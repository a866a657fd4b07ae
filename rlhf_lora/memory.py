"""How much memory each stage needs, worked out before anything is loaded: arithmetic over a model's shape.

    base         the frozen weights: NF4 with double quantisation, or dense; embeddings and lm_head stay dense
    adapters     LoRA weights of every role, fp32; gradients and Adam moments of the trained ones
    context      what CUDA takes for itself; none on a CPU
    rollout      key-value cache of the samples in flight, and the logits of one step
    training     saved layer inputs, the largest layer being recomputed, one chunk of logits

Rollout and training take turns, so the peak counts the larger one. Activations come out somewhat high: against a
published 7B QLoRA run the formula said 14-32 % more than was measured, most at long sequences. Right for "does it fit".

Absent on purpose: attention scores (no attention kernel in use keeps them), biases, norms and value heads (together
under 0.1 %), and the interpreter with its libraries, which live in host memory.

Letters, as in the formulas' comments: d hidden · q, k query and key width · f MLP width · L layers · V vocabulary ·
r LoRA rank · T tokens in a micro-batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_lora.errors import ModelError

Stage = Literal["sft", "reward_model", "labelling", "preference", "on_policy"]

GIB = 2**30
NF4_BYTES = 0.5 + 1 / 64 + 4 / 16384  # 4 bits, an 8-bit scale per 64 weights, an fp32 scale per 256 of those (QLoRA §3)
CUDA_CONTEXT = 800_000_000
FRAGMENTATION = 0.06  # of everything else: what the allocator holds and cannot hand out
DESKTOP = 500_000_000  # a card that also draws a screen
KEPT_FREE = 0.05  # of the card
FP32 = 4

# stage → (adapters that learn, adapters that are only read, sequences of one training example)
ROLES: dict[Stage, tuple[int, int, int]] = {
    "sft": (1, 0, 1),
    "reward_model": (1, 0, 2),  # chosen and rejected
    "preference": (1, 1, 2),  # TRL's DPO keeps a frozen copy as reference
    "labelling": (0, 3, 1),  # nobody learns: the policy answers, the reward reads
    "on_policy": (2, 2, 1),  # policy and value learn; reference and reward are read
}


SHAPE_IN_FULL = "give model.shape={hidden:…,layers:…,heads:…,kv_heads:…,head_dim:…,mlp:…,vocab:…,tied:…}"


@dataclass(frozen=True)
class Shape:
    """What of a decoder's shape decides its memory (Llama family: gated MLP, grouped-query attention).

    Attributes:
        mlp: width of the gated MLP (`intermediate_size`).
        tied: lm_head and embedding are one matrix.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    tied: bool

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Shape:
        """The shape that `model.shape` gives.

        Raises:
            ModelError: a number is missing, or it has one too many.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if names ^ given.keys():
            wrong = [f"no {name}" for name in sorted(names - given.keys())]
            wrong += [f"'{name}', which is none of its numbers" for name in sorted(given.keys() - names)]
            raise ModelError(f"model.shape has {', '.join(wrong)}", where="model.shape", fix=SHAPE_IN_FULL)
        return cls(**given)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "tied" and (not isinstance(value, int) or value < 1):
                raise ModelError(
                    f"a model's shape needs a whole number above 0 for '{field.name}', got {value!r}",
                    where="model.shape",
                    fix="copy the numbers from the model's config.json",
                )

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Weights of all attention and MLP projections: what is quantised, and what LoRA stands beside."""
        return self.layers * self.hidden * (2 * self.query + 2 * self.key + 3 * self.mlp)

    @property
    def vocab_parameters(self) -> int:
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.vocab_parameters

    def lora_parameters(self, r: int) -> int:
        """Parameters of one adapter on every projection ("all-linear"): r (in + out) for each."""
        d, q, k, f = self.hidden, self.query, self.key, self.mlp
        return r * self.layers * (2 * (d + q) + 2 * (d + k) + 3 * (d + f))


def from_config_json(config: Mapping[str, Any]) -> Shape:
    """The shape that a Transformers `config.json` describes (Llama, Mistral, Qwen2, Qwen3, Gemma 2 and 3, SmolLM2, …).

    Raises:
        ModelError: a key is missing, or the model is a mixture of experts, whose shape this cannot say.
    """
    kind = str(config.get("model_type", "?"))
    config = config.get("text_config") or config  # models that also see keep the language model's numbers inside
    if any(config.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ModelError(
            f"the memory of a mixture of experts ({kind}) cannot be estimated",
            where="config.json",
            fix="use a dense model, or watch peak_memory_gib of a short run",
        )
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise ModelError(
            f"the model's config.json (model_type {kind}) has no {', '.join(missing)}",
            where="config.json",
            fix=SHAPE_IN_FULL,
        )
    hidden, layers, heads, mlp, vocab = (config[key] for key in keys)
    return Shape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        mlp=mlp,
        vocab=vocab,
        # config.json leaves out what is the architecture's default: tied for Gemma, untied for the others
        tied=bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),
    )


@dataclass(frozen=True)
class Memory:
    """The parts of one stage's memory, in bytes. Of `rollout` and `training` only the larger counts. `judge`: the weights of a
    judge's own model beside the base; its forward passes take turns with the rest and are not counted."""

    base: int
    adapters: int
    gradients: int
    moments: int
    context: int
    rollout: int
    training: int
    fragmentation: int
    judge: int = 0

    def with_judge(self, weights: int) -> Memory:
        """Beside a judge's own model of so many bytes."""
        fragmentation = self.fragmentation + round(FRAGMENTATION * weights)
        return dataclasses.replace(self, judge=self.judge + weights, fragmentation=fragmentation)

    @property
    def peak_phase(self) -> Literal["rollout", "training"]:
        return "rollout" if self.rollout > self.training else "training"

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        always = self.base + self.adapters + self.gradients + self.moments + self.context + self.judge
        return always + max(self.rollout, self.training) + self.fragmentation

    @property
    def total_gib(self) -> float:
        return self.total / GIB

    def fits(self, memory_gib: float) -> bool:
        """Whether a card of that size takes it, beside a desktop and with 5 % kept free."""
        return self.total <= usable(memory_gib)

    def rows(self) -> list[tuple[str, float, str]]:
        """(part, GiB, note) for printing; the phase that is not the peak is there too, and says so."""
        rows = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value:
                phase = field.name in ("rollout", "training")
                note = "" if not phase else "at the peak" if field.name == self.peak_phase else "takes turns, not added"
                rows.append((field.name, value / GIB, note))
        return [*rows, ("total", self.total_gib, "")]


def usable(memory_gib: float) -> float:
    """Bytes of a card that a run may take: 95 % of it, less 0.5 GB for a desktop."""
    return memory_gib * GIB * (1 - KEPT_FREE) - DESKTOP


def estimate(
    shape: Shape,
    *,
    stage: Stage = "on_policy",
    load_in_4bit: bool = True,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    r: int = 16,
    prompt_tokens: int,
    response_tokens: int,
    rollout_batch: int = 0,
    micro_batch: int = 1,
    trained_adapters: int | None = None,
    frozen_adapters: int | None = None,
    sequences: int | None = None,
    chunk: int = 256,
    gradient_checkpointing: bool = True,
    device_context: bool = True,
    moment_bytes: int = 8,
) -> Memory:
    """Memory of one stage at its peak.

    Args:
        stage: decides how many adapters there are when the two counts are not given, how many sequences a training
            example has, and whether there is a rollout.
        dtype: of what is not quantised, and of activations.
        rollout_batch: sequences sampled at once.
        micro_batch: training examples in one forward and backward; a pair is two sequences.
        sequences: of one training example, where that is not the stage's usual: a ranking of K answers has K.
        chunk: response positions whose logits exist at once.
        device_context: False on a CPU.
        moment_bytes: Adam's state per trained parameter: 8 in fp32, 2 in 8 bits.
    """
    trained, frozen, usual = ROLES[stage]
    sequences = usual if sequences is None else sequences
    trained = trained if trained_adapters is None else trained_adapters
    frozen = frozen if frozen_adapters is None else frozen_adapters
    width = 2 if dtype == "bfloat16" else FP32
    lora = shape.lora_parameters(r)
    length = prompt_tokens + response_tokens
    tokens = micro_batch * sequences * length
    unpacked = _unpacked(shape, width) if load_in_4bit else 0
    parts = {
        "base": shape.linear_parameters * (NF4_BYTES if load_in_4bit else width) + shape.vocab_parameters * width,
        "adapters": lora * (trained + frozen) * FP32,
        "gradients": lora * trained * FP32,
        "moments": lora * trained * moment_bytes,
        "context": CUDA_CONTEXT if device_context else 0,
    }
    logits = 0 if stage == "reward_model" else min(chunk, tokens) * shape.vocab * (8 + width)  # plus fp32 copy, softmax
    training = _activations(shape, tokens, width, gradient_checkpointing) + unpacked + logits
    training = 0 if stage == "labelling" else training
    rollout = _rollout(shape, rollout_batch, length, width) + unpacked if stage in ("on_policy", "labelling") else 0
    fragmentation = FRAGMENTATION * (sum(parts.values()) + max(training, rollout))
    phases = {"rollout": rollout, "training": training, "fragmentation": fragmentation}
    return Memory(**{name: round(value) for name, value in (parts | phases).items()})


def _unpacked(shape: Shape, width: int) -> int:
    """The largest 4-bit matrix, unpacked for one matrix product."""
    return width * shape.hidden * max(shape.mlp, shape.query)


def _activations(shape: Shape, tokens: int, width: int, gradient_checkpointing: bool) -> int:
    """What the backward pass keeps. Checkpointing: every layer's input, and one layer in full while it is recomputed.

    The fp32 part is PEFT's: it casts the input of every LoRA pair (q, k, v, gate, up of width d; o of q; down of f).
    """
    d, q, k, f = shape.hidden, shape.query, shape.key, shape.mlp
    layer = tokens * (width * (4 * d + 2 * q + 2 * k + 6 * f) + FP32 * (5 * d + q + f))
    return width * shape.layers * tokens * d + layer if gradient_checkpointing else shape.layers * layer


def _rollout(shape: Shape, batch: int, length: int, width: int) -> int:
    """Keys and values of every layer for the sequences in flight, and the logits of one step (sampled in fp32)."""
    return 2 * width * shape.layers * shape.key * length * batch + (8 + width) * batch * shape.vocab
