"""Somebody else's reward model, as its makers publish it: its own weights, tokenizer and template, read in its own way."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.errors import ModelError
from rlhf_lora.records import Sample, Score, transcript
from rlhf_lora.registry import reward

if TYPE_CHECKING:
    from rlhf_lora.contracts import Context

HEADS = ("score", "classifier", "classification_head")
"""What Transformers calls the head of a sequence classifier."""


@reward("sequence_classifier")
class SequenceClassifier:
    """A sequence-classification model from the hub or a folder, or a PEFT adapter of one. It stands beside the run's base,
    with its own tokenizer and chat template; a reward model that this kit trained is `reward=learned reward.path=RUN`.

    Attributes:
        path: hub id or folder. revision: branch, tag or commit of a hub id.
        label: which output is the reward, by number or by its name in config.json; null where there is one only.
        probability: the output as a probability (sigmoid of one, softmax of several) and not as a logit.
        template: `auto` = the tokenizer's chat template if it has one; `plain` = the conversation as text.
        load_in_4bit: NF4, as the run's base.
        max_length: tokens of prompt and answer; a longer text has no score.
        batch_size: texts at a time.
    """

    path: str
    revision: str | None = None
    label: str | None = None
    probability: bool = False
    template: str = "auto"
    load_in_4bit: bool = True
    max_length: int = 2048
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.template not in ("auto", "plain"):
            raise ValueError(f"template is 'auto' or 'plain', got '{self.template}'")
        for name in ("max_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        folder = Path(self.path).expanduser()
        known = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
        if self.path.startswith((".", "/", "~")) and not known:
            raise ModelError(
                f"no sequence classifier in {self.path}", where=f"reward.path={self.path}",
                fix="a folder with config.json or adapter_config.json and safetensors, or a hub id",
            )  # fmt: skip

    def score(self, samples: Sequence[Sample]) -> list[float]:
        raise ModelError(
            "a sequence classifier needs its weights", where="reward=sequence_classifier", fix="use it in a run, where it is opened"
        )  # fmt: skip

    def open(self, ctx: Context) -> OpenClassifier:
        return OpenClassifier(self, ctx)


class OpenClassifier:
    """The model in memory. Texts are read by the model's own forward pass, padded as its tokenizer pads."""

    def __init__(self, settings: SequenceClassifier, ctx: Context):
        self.settings, self.device = settings, ctx.device
        dtype = "float32" if ctx.backbone is None else ctx.backbone.spec.dtype
        self.tokenizer, self.model = _loaded(settings, ctx.device, dtype)
        self.label = _label(settings, self.model.config)
        pad_id = self.model.config.pad_token_id
        if pad_id is not None and self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = pad_id

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        import torch

        ids, most = [self._ids(sample) for sample in samples], self.settings.max_length
        scores = [Score.none(f"{len(row)} tokens, more than max_length={most}") for row in ids]
        order = sorted((i for i in range(len(ids)) if len(ids[i]) <= most), key=lambda i: len(ids[i]))
        # Without a padding token a model reads one text at a time: it could not tell where a shorter one ends.
        size = self.settings.batch_size if self.model.config.pad_token_id is not None else 1
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            padded = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt") if size > 1 else {
                "input_ids": torch.tensor([ids[rows[0]]]), "attention_mask": torch.ones(1, len(ids[rows[0]]), dtype=torch.long)
            }  # fmt: skip
            with torch.no_grad():
                logits_BL = self.model(**{name: value.to(self.device) for name, value in padded.items()}).logits.float()
            for i, logits_L in zip(rows, logits_BL.tolist(), strict=True):
                value = self._value(logits_L)
                scores[i] = (
                    Score(value) if math.isfinite(value) else Score.none(f"the model gave {value}", kind="error")
                )
        return scores

    def _value(self, logits_L: list[float]) -> float:
        if not self.settings.probability:
            return logits_L[self.label]
        if len(logits_L) == 1:
            return 1 / (1 + math.exp(-max(-700.0, logits_L[0])))
        top = max(logits_L)
        return math.exp(logits_L[self.label] - top) / math.fsum(math.exp(value - top) for value in logits_L)

    def _ids(self, sample: Sample) -> list[int]:
        turns = list(sample.messages or ())
        if self.settings.template == "auto" and self.tokenizer.chat_template:
            asked = [dict(turn) for turn in turns] or [{"role": "user", "content": sample.prompt}]
            conversation = [*asked, {"role": "assistant", "content": sample.text}]
            text = self.tokenizer.apply_chat_template(conversation, tokenize=False)
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes them itself
        before = transcript(turns) if turns else sample.prompt
        return list(self.tokenizer(f"{before} {sample.text}" if turns else before + sample.text)["input_ids"])


def _loaded(settings: SequenceClassifier, device: str, dtype: Any) -> tuple[Any, Any]:
    """Tokenizer and model, in evaluation mode.

    Raises:
        ModelError: it cannot be loaded, or the head is not among the weights: a new one would be random.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from rlhf_lora import loading
    from rlhf_lora.model_spec import ModelSpec

    path = str(Path(settings.path).expanduser()) if Path(settings.path).expanduser().exists() else settings.path
    adapter = _adapter_config(path, settings.revision)
    base = path if adapter is None else str(adapter["base_model_name_or_path"])
    spec = ModelSpec(base, None if adapter else settings.revision, settings.load_in_4bit, dtype, device)
    options: dict[str, Any] = {"revision": spec.revision, "dtype": spec.torch_dtype, "use_safetensors": True}
    if settings.load_in_4bit:
        quantisation = loading.quantisation(spec)
        quantisation.llm_int8_skip_modules = [*quantisation.llm_int8_skip_modules, *HEADS]
        options |= {"quantization_config": quantisation, "device_map": {"": device}}
    if adapter is not None:
        options["num_labels"] = _labels_of_adapter(path, settings.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path if adapter is None or _has_tokenizer(path) else base)
        with loading.quiet_transformers():
            model, info = AutoModelForSequenceClassification.from_pretrained(base, output_loading_info=True, **options)
            if adapter is not None:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, path, revision=settings.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the sequence classifier could not be loaded: {str(error).strip().splitlines()[0]}",
            where=f"reward.path={settings.path}", fix="a folder in Transformers or PEFT layout with safetensors, or a hub id",
        ) from error  # fmt: skip
    missing = sorted(info["missing_keys"]) if adapter is None else []
    if missing:
        raise ModelError(
            f"{settings.path} has no weights for {missing[0]}: they would be random", where=f"reward.path={settings.path}",
            fix="a model that was trained as a sequence classifier (reward model), head included",
        )  # fmt: skip
    if not settings.load_in_4bit:
        model = model.to(device)
    model.requires_grad_(False)
    loading.disable_dropout(model)
    return tokenizer, model.eval()


def _adapter_config(path: str, revision: str | None) -> dict[str, Any] | None:
    """Of a PEFT adapter; None for a whole model."""
    file = Path(path) / "adapter_config.json"
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            file = Path(hf_hub_download(path, "adapter_config.json", revision=revision))
        except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError):
            return None
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else None


def _labels_of_adapter(path: str, revision: str | None) -> int:
    """How many outputs the adapter's head has.

    Raises:
        ModelError: it has none.
    """
    from safetensors import safe_open

    file = Path(path) / "adapter_model.safetensors"
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(path, file.name, revision=revision))
    with safe_open(file, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 it is no mapping
            if any(f".{head}." in name for head in HEADS) and name.endswith("weight") and "lora_" not in name:
                return int(weights.get_slice(name).get_shape()[0])
    raise ModelError(
        "the adapter has no head, so its scores would be random", where=f"reward.path={path}",
        fix="an adapter that was trained as a sequence classifier (task_type SEQ_CLS, the head in modules_to_save)",
    )  # fmt: skip


def _has_tokenizer(path: str) -> bool:
    return (Path(path) / "tokenizer_config.json").is_file()


def _label(settings: SequenceClassifier, config: Any) -> int:
    """Which output is the reward.

    Raises:
        ModelError: there are several and none was named, or there is no such one.
    """
    names = {int(number): str(name) for number, name in config.id2label.items()}
    if settings.label is None:
        if len(names) == 1:
            return 0
        fix = f"reward.label=NAME, one of: {', '.join(names.values())}"
        raise ModelError(f"the model has {len(names)} outputs", where="reward.label", fix=fix)
    for number, name in names.items():
        if settings.label in (name, str(number)):
            return number
    raise ModelError(
        f"the model has no output '{settings.label}'", where="reward.label", fix=f"one of: {', '.join(names.values())}"
    )
