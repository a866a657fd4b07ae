"""One frozen base, and every role on it: policy, reference, value, reward as LoRA adapters and small heads.

`Backbone` is the shared model of the on-policy loop. Rules that cost others days, each held by a test:

- One role = forward *and* backward before the next switch. Peft's `set_adapter` clears `requires_grad` of the others;
  a joint backward would leave their gradients `None` without an error. `role()` restores it from the role table.
- Logits never exist as batch × time × vocabulary: `objectives.logprobs.selected` works in chunks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lora.errors import ModelError
from rlhf_lora.loading import disable_dropout, load_base, load_chat, read_adapter, sort_config
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.objectives import logprobs as chunked
from rlhf_lora.progress import track


@dataclass
class Role:
    """One use of the base.

    Attributes:
        adapter: whether it has an adapter of its own; False = the bare base (adapters off).
        trained: whether its adapter and head learn.
        start: the adapter folder that it began as; None for a fresh adapter or the bare base.
    """

    name: str
    adapter: bool
    trained: bool
    start: Path | None = None


class Backbone:
    """The frozen base with its roles. Not a module: nothing can put it into a state by accident.

    Args:
        spec: what to load.
        micro_batch: sequences per forward pass where no gradient is kept.
        rollout_batch: sequences sampled at once.
        logprob_chunk: positions projected onto the vocabulary at a time.
    """

    def __init__(self, spec: ModelSpec, *, micro_batch: int = 64, rollout_batch: int = 256, logprob_chunk: int = 1024):
        self.spec, self.micro_batch, self.rollout_batch, self.logprob_chunk = (
            spec,
            micro_batch,
            rollout_batch,
            logprob_chunk,
        )
        self.chat = load_chat(spec)
        self.base = load_base(spec)
        self.model: Any = None  # the PeftModel around the base, once a role has an adapter
        self.roles: dict[str, Role] = {}
        self.heads = nn.ModuleDict()
        self._adapters: dict[str, dict[str, nn.Parameter]] = {}
        self._lora_layers: list[Any] = []
        self._active: str | None = None
        self.trunk = getattr(self.base, self.base.base_model_prefix)
        self.head_weight_VD = _plain_head(self.base)
        if spec.gradient_checkpointing:
            with warnings.catch_warnings():  # its new name is not in every version we take
                warnings.simplefilter("ignore", FutureWarning)
                self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._check_logits()

    @property
    def device(self) -> str:
        return self.spec.device

    # roles ............................................................................................................

    def add_role(
        self, name: str, *, start: Path | None = None, trained: bool = False, bare: bool = False, head: bool = False
    ) -> None:
        """Give the base a role.

        Args:
            start: adapter folder to copy; None for a fresh adapter (B = 0: the same function as the bare base).
            bare: no adapter: the base itself.
            head: a scalar head, read from `start`; zero when there is no `start`.

        Raises:
            ModelError: the adapter was made for another base, or has no head where one is wanted.
        """
        if name in self.roles:
            raise ModelError(f"the role '{name}' exists already", where=str(start or ""), fix="one adapter per role")
        tensors: dict[str, Tensor] = {}
        if not bare:
            config, tensors = self._adapter_parts(start)
            if head and start is not None and not any(key.endswith("score.weight") for key in tensors):
                raise ModelError(
                    "the adapter has no score head", where=str(start), fix="give a reward adapter (stage reward_model)"
                )
            self._add_adapter(name, config, tensors, start)
        self.roles[name] = Role(name, adapter=not bare, trained=trained, start=start)
        if head:
            self.heads[name] = self._head(tensors)
        self._restore_requires_grad()

    def add_head(self, name: str, start: Path | None = None) -> None:
        """A scalar head, zero, or that of the reward adapter `start`; on its own role's trunk or another's."""
        self.heads[name] = self._head(self._adapter_parts(start)[1] if start is not None else {})
        self._restore_requires_grad()

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Be `name` for a forward pass, and for its backward: finish both before the next switch."""
        if self._active is not None:
            raise RuntimeError(f"role '{name}' was asked for inside role '{self._active}': finish one before the next")
        role, self._active = self.roles[name], name
        if self.spec.gradient_checkpointing and self.model is not None:
            # In training mode checkpointed layers drop the KV cache, and a rollout would see one token at a time.
            self.model.train(torch.is_grad_enabled())
        try:
            if role.adapter:
                for layer in self._lora_layers:  # as `PeftModel.set_adapter` does, without its walk over all modules
                    layer.set_adapter(name)
                self._restore_requires_grad()
                yield
            elif self.model is None:
                yield
            else:
                with self.model.disable_adapter():
                    yield
        finally:
            self._active = None
            self._restore_requires_grad()

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Trainable tensors of a role or head, by stable names: its adapter's, and its head's."""
        found = dict(self._adapters.get(name, {}))
        if name in self.heads:
            found |= {f"head.{n}": p for n, p in self.heads[name].named_parameters()}
        return found

    def save_adapter(self, name: str, folder: Path) -> None:
        """Write a role's adapter in PEFT layout; `peft.PeftModel.from_pretrained` loads it."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(folder / "adapter_model.safetensors")
        )
        config = self.model.peft_config[name]
        config.base_model_name_or_path = self.spec.path
        config.inference_mode = True
        config.save_pretrained(str(folder))
        config.inference_mode = False
        sort_config(folder / "adapter_config.json")

    # forward passes ...................................................................................................

    def hidden(self, ids_BS: Tensor, attention_BS: Tensor, positions_BS: Tensor) -> Tensor:
        """Final hidden states of the active role, shape (B, S, D)."""
        output = self.trunk(input_ids=ids_BS, attention_mask=attention_BS, position_ids=positions_BS, use_cache=False)
        return output.last_hidden_state

    def response_hidden(self, padded: Any, behind_end: bool = False) -> Tensor:
        """The states that predict the response tokens, shape (B, T, D), of the active role.

        Args:
            behind_end: also the state after the last token, shape (B, T + 1, D): of n tokens, it is in place n.
        """
        hidden_BSD = self.hidden(padded.ids_BS, padded.attention_BS, padded.positions_BS)
        return hidden_BSD[:, padded.prompt_width - 1 : None if behind_end else -1]

    def logprobs(self, hidden_BTD: Tensor, tokens_BT: Tensor, temperature: float) -> Tensor:
        return chunked.selected(hidden_BTD, self.head_weight_VD, tokens_BT, temperature, self.logprob_chunk)

    def read_head(self, name: str, hidden: Tensor) -> Tensor:
        """Scalar head on hidden states: (…, D) → (…)."""
        return self.heads[name](hidden.float())[..., 0]

    @torch.no_grad()
    def sequence_logprobs(
        self, role: str, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """log-probs in nats of each response token under `role`, one list per response."""
        rows: list[list[float]] = [[] for _ in prompts]
        with self.role(role):
            for index, padded in self.micro_batches(prompts, responses, show=f"{role} log-probs"):
                logprobs_BT = self.logprobs(self.response_hidden(padded), padded.responses_BT, temperature)
                for i, row_T in zip(index, logprobs_BT.tolist(), strict=True):
                    rows[i] = row_T[: len(responses[i])]
        return rows

    @torch.no_grad()
    def sequence_scores(
        self, role: str, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[float]:
        """Head of `role` at the last token of each sequence, one number per sequence."""
        scores = [0.0] * len(prompts)
        with self.role(role):
            for index, padded in self.micro_batches(prompts, responses, show=f"{role} scores"):
                hidden_BSD = self.hidden(padded.ids_BS, padded.attention_BS, padded.positions_BS)
                last_B = padded.prompt_width - 1 + padded.response_mask_BT.sum(1)
                last_BD = hidden_BSD[torch.arange(len(index), device=hidden_BSD.device), last_B]
                for i, value in zip(index, self.read_head(role, last_BD).tolist(), strict=True):
                    scores[i] = value
        return scores

    def micro_batches(
        self,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        size: int | None = None,
        show: str = "",
    ) -> Iterator[tuple[list[int], Any]]:
        """Padded micro-batches, sorted by length so that little is padding, each with the rows it holds.

        Args:
            show: what to call the pass over them on the progress display; empty = do not show it.
        """
        from rlhf_lora.padding import pad

        size = size or self.micro_batch
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]) + len(responses[i]), i))
        starts = range(0, len(order), size)
        for start in track(starts, show, inner=True) if show else starts:
            index = order[start : start + size]
            yield index, pad([prompts[i] for i in index], [responses[i] for i in index], self.chat.fill_id, self.device)

    # inside ...........................................................................................................

    def _adapter_parts(self, start: Path | None) -> tuple[Any, dict[str, Tensor]]:
        if start is None:
            return self.spec.lora.config("CAUSAL_LM"), {}
        from peft import LoraConfig

        settings, tensors = read_adapter(start)
        kept = ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern")
        unsupported = [k for k in ("use_dora", "layers_to_transform") if settings.get(k)]
        # A reward adapter saves its head as well; the head becomes one of ours.
        unsupported += [m for m in settings.get("modules_to_save") or [] if m not in ("score", "classifier")]
        if settings.get("bias", "none") != "none":
            unsupported.append("bias")  # would be written into the base that all roles share
        if settings.get("peft_type") != "LORA" or unsupported:
            raise ModelError(
                f"the adapter is {settings.get('peft_type')} with {', '.join(unsupported) or 'parts of its own'}",
                where=str(start),
                fix="plain LoRA adapters can share a base; train one without these parts",
            )
        return LoraConfig(task_type="CAUSAL_LM", **{k: settings[k] for k in kept if k in settings}), tensors

    def _add_adapter(self, name: str, config: Any, tensors: Mapping[str, Tensor], start: Path | None) -> None:
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
        from peft.tuners.tuners_utils import BaseTunerLayer

        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning
            )  # peft's, of Transformers
            if self.model is None:
                self.model = get_peft_model(self.base, config, adapter_name=name)
            else:
                self.model.add_adapter(name, config)
        disable_dropout(self.model)
        self.model.eval()
        self._adapters[name] = {
            n.replace(f".{name}.", "."): p
            for n, p in self.model.named_parameters()
            if f".{name}." in n and "lora_" in n
        }
        for parameter in self._adapters[name].values():
            parameter.data = parameter.data.float()
        self._lora_layers = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        if start is None:
            return
        wanted = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        given = {k: v.float() for k, v in tensors.items() if ".score." not in k}
        wrong = [
            k
            for k in wanted.keys() | given.keys()
            if k not in wanted or k not in given or wanted[k].shape != given[k].shape
        ]
        if wrong:
            self.model.delete_adapter(name)
            del self._adapters[name]
            raise ModelError(
                f"the adapter was made for another base: {len(wrong)} of its tensors do not fit (first: {sorted(wrong)[0]})",
                where=str(start),
                fix=f"use an adapter that was trained on {self.spec.path}",
            )
        set_peft_model_state_dict(self.model, given, adapter_name=name)

    def _head(self, tensors: Mapping[str, Tensor]) -> nn.Linear:
        width = self.head_weight_VD.shape[1]
        head = nn.Linear(width, 1, dtype=torch.float32)
        weight = next((v for k, v in tensors.items() if k.endswith("score.weight")), None)
        bias = next((v for k, v in tensors.items() if k.endswith("score.bias")), None)
        with torch.no_grad():
            head.weight.zero_() if weight is None else head.weight.copy_(weight)
            head.bias.zero_() if bias is None else head.bias.copy_(bias)
        return head.to(self.device)

    def _restore_requires_grad(self) -> None:
        """Set `requires_grad` of every adapter and head from the role table: peft's switch changes it."""
        for name in {*self.roles, *self.heads}:
            trained = self.roles[name].trained if name in self.roles else True
            for parameter in self.parameters(name).values():
                parameter.requires_grad_(trained)

    @torch.no_grad()
    def _check_logits(self) -> None:
        """Refuse models whose logits are more than head × hidden (soft caps, scales): log-probs would be wrong."""
        ids_BS = torch.tensor([[self.chat.end_id, 0, 1, 2]], device=self.device)
        logits_BSV = self.base(input_ids=ids_BS).logits.float()
        attention_BS = torch.ones_like(ids_BS)
        hidden_BSD = self.hidden(ids_BS, attention_BS, attention_BS.cumsum(1) - 1)
        ours_BT = self.logprobs(hidden_BSD[:, :-1], ids_BS[:, 1:], 1.0)
        theirs_BT = logits_BSV[:, :-1].log_softmax(-1).gather(2, ids_BS[:, 1:, None])[..., 0]
        if not torch.allclose(ours_BT, theirs_BT, atol=5e-2 if self.spec.dtype == "bfloat16" else 1e-3):
            raise ModelError(
                "this architecture changes its logits after the vocabulary projection (soft cap or scale)",
                where=f"model.path={self.spec.path}",
                fix="use a model whose logits are lm_head(hidden), such as Llama, Qwen or Mistral",
            )


def _plain_head(model: Any) -> Tensor:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelError(
            "the model has no plain vocabulary projection",
            where=type(model).__name__,
            fix="use a causal language model",
        )
    return head.weight.detach()
