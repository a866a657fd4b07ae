"""`judge=local`: a model in this process that is asked in words, and whose token probabilities are read."""

from __future__ import annotations

import json
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf_lora import memory
from rlhf_lora.errors import ConfigError, ModelError
from rlhf_lora.judging import texts
from rlhf_lora.judging.asked import Asked
from rlhf_lora.judging.own_model import OwnModel, spellings
from rlhf_lora.judging.settings import JudgingSettings
from rlhf_lora.model_spec import ModelSpec, adapter_hash, base_hash, check_model_folder, file_of
from rlhf_lora.records import Prompt, Verdict
from rlhf_lora.registry import judge

if TYPE_CHECKING:
    from rlhf_lora.contracts import Context


@judge("local")
class Local(JudgingSettings):
    """The run's own base with its adapters off, or another model. It costs no memory of its own unless `path` is given.

    Attributes:
        path: hub id or folder of another model; null = the run's own base.
        adapter: a LoRA adapter on it: its folder, or the run folder whose policy it is. null = none.
        revision, load_in_4bit, template, template_kwargs: of `path`, as those of `model`.
        batch_size: questions at a time; null = `hardware.micro_batch`.
        max_length: tokens of question and answer; what is longer gets no verdict.
        least_mass: less probability than this on the choices together is unreadable.
    """

    path: str | None = None
    adapter: str | None = None
    revision: str | None = None
    load_in_4bit: bool = True
    template: str = "auto"
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    max_length: int = 4096
    least_mass: float = 0.01

    deterministic = True

    @property
    def model(self) -> str | None:
        """What `path` is called, for rows and messages: a hub id, or a folder's name; None of the run's own base."""
        if self.path is None:
            return None
        folder = Path(self.model_path)
        return folder.resolve().name if folder.is_dir() else self.path

    @property
    def needs_backbone(self) -> bool:
        return self.path is None

    def check_chat(self, chat: Any, rates: bool = False) -> None:
        """Raises ModelError: the model's vocabulary does not tell the choices apart, or the ratings where it `rates`."""
        where = f"judge=local judge.path={self.path or 'null'}"
        for choices in (texts.PAIR_OR_TIE if self.ties else texts.PAIR, *([texts.RATINGS] if rates else [])):
            spellings(chat, choices, self.style == "bare", Prompt("?"), where)

    @property
    def own_spec(self) -> ModelSpec | None:
        """The model at `path`."""
        if self.path is None:
            return None
        return ModelSpec(
            self.model_path, self.revision, self.load_in_4bit,
            template=self.template, template_kwargs=self.template_kwargs,  # type: ignore[arg-type]
        )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template not in ("auto", "chat", "plain"):
            raise ConfigError(f"judge.template is '{self.template}'", where="judge.template", fix="auto, chat or plain")
        for name in ("batch_size", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"judge.{name} is {value}", where=f"judge.{name}", fix="1 or more")
        if not 0 <= self.least_mass < 1:
            raise ConfigError(
                f"judge.least_mass is {self.least_mass}", where="judge.least_mass", fix="0 or more, below 1"
            )
        if self.path is not None:
            check_model_folder(self.model_path, "judge.path")
        _ = self.folder  # what is not there is said before anything runs

    @property
    def model_path(self) -> str:
        """`path`, with the home folder for `~`; of a judge that has one."""
        assert self.path is not None
        return str(Path(self.path).expanduser()) if self.path.startswith("~") else self.path

    @property
    def folder(self) -> Path | None:
        """Of the adapter.

        Raises:
            ModelError: `adapter` holds none.
        """
        if self.adapter is None:
            return None
        given = Path(self.adapter).expanduser()
        for folder in (given, given / "adapters" / "policy"):
            if (folder / "adapter_config.json").is_file():
                return folder
        raise ModelError(
            f"no adapter in {given}",
            where=f"judge.adapter={self.adapter}",
            fix="an adapter folder, or a finished run's",
        )

    def contents(self) -> dict[str, str]:
        model = {} if self.path is None else {"model": base_hash(self.model_path, self.revision)}
        adapter = {} if self.folder is None else {"adapter": adapter_hash(self.folder)}
        return super().contents() | model | adapter

    def own_bytes(self, dtype: Literal["float32", "bfloat16"]) -> int | None:
        """Weights of the model at `path`, 0 without one; None where its config.json is not on this machine or says no shape."""
        if self.path is None:
            return 0
        if (file := file_of(self.model_path, "config.json", self.revision)) is None:
            return None
        try:
            shape = memory.from_config_json(json.loads(file.read_text("utf-8")))
        except (ModelError, ValueError):
            return None
        return memory.estimate(
            shape, load_in_4bit=self.load_in_4bit, dtype=dtype, prompt_tokens=1, response_tokens=1
        ).base

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        raise ModelError(
            "a local judge needs its model", where="judge=local", fix="use it in a run, where it is opened"
        )

    def open(self, ctx: Context) -> Asked:
        backbone = ctx.backbone if self.own_spec is None else self._own_backbone(ctx, self.own_spec)
        if backbone is None:
            raise ModelError(
                "there is no base here that could judge", where="judge=local judge.path=null",
                fix="judge.path=MODEL (a folder in Transformers layout, or a hub id)",
            )  # fmt: skip
        listener = OwnModel(
            backbone, _role_of(backbone, self.folder), bare=self.style == "bare", batch=self.batch_size,
            longest=self.max_length, least_mass=self.least_mass, seed=self.lot,
        )  # fmt: skip
        return Asked(listener, self, on_device=True)

    def _own_backbone(self, ctx: Context, own: ModelSpec) -> Any:
        from rlhf_lora.backbone import Backbone

        usual = "bfloat16" if ctx.device == "cuda" else "float32"
        dtype: Any = usual if ctx.backbone is None else ctx.backbone.spec.dtype
        spec = replace(own, dtype=dtype, device=ctx.device)
        try:
            return Backbone(spec) if ctx.backbone is None else Backbone(spec, micro_batch=ctx.backbone.micro_batch)
        except ModelError as error:
            raise ModelError(error.what, where=f"judge.path={self.path}", fix=error.fix) from error


def _role_of(backbone: Any, folder: Path | None) -> str:
    """The judge's role, made once however often it is opened: the bare base, or an adapter of its own."""
    taken = [name for name in backbone.roles if name == "judge" or name.startswith("judge_")]
    for name in taken:
        start = backbone.roles[name].start
        if (start and start.resolve()) == (folder and folder.resolve()):
            return name
    name = f"judge_{len(taken) + 1}" if taken else "judge"
    backbone.add_role(name, start=folder, bare=folder is None)
    return name
