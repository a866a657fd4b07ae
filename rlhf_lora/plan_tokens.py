"""Text as the model will see it, for the plan: the model's own tokenizer and chat template, without Transformers.

`chat.Chat` decides when training; this says the same beforehand from `tokenizer.json` and `tokenizer_config.json` alone,
which takes milliseconds where importing Transformers takes seconds. A test holds the two together. Where no tokenizer is
at hand, without the network, lengths are estimated from characters, and `said` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora import markup
from rlhf_lora.errors import DataError
from rlhf_lora.mini import orders
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.records import ASSISTANT, Prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHARACTERS_A_TOKEN = 4
"""English in a vocabulary of 32,000 or more; code and other scripts have fewer."""
LONGEST = 50_000
"""Characters of one text that are counted; a longer one counts in proportion. It is beyond every limit anyway."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TemplateRefuses(ValueError):
    """The chat template cannot be used, or raised an error for this conversation."""


class PlanTokens:
    """Counts tokens and renders prompts.

    Args:
        files: tokenizer.json, tokenizer_config.json, chat_template.jinja → where they lie, those that are there.
        words: a tokenizer made already, instead of tokenizer.json.
    """

    def __init__(self, spec: ModelSpec, files: Mapping[str, Path], words: Tokenizer | None = None):
        self.mode, self.template_kwargs = spec.template, dict(spec.template_kwargs)
        config = _json(files.get("tokenizer_config.json"))
        self.special = {name: _text(config[name]) for name in SPECIAL if config.get(name)}
        if words is not None:
            self.special["eos_token"] = orders.END
        self.template = _template(config, files.get("chat_template.jinja"))
        self.tokenizer = words or _tokenizer(files.get("tokenizer.json"))
        added = self.tokenizer.get_added_tokens_decoder().values() if self.tokenizer else ()
        self._special = [token.content for token in added if token.special]

    @property
    def exact(self) -> bool:
        return self.tokenizer is not None

    @property
    def said(self) -> str:
        """How lengths are counted."""
        if self.exact:
            return "tokens of the model's own tokenizer"
        return f"estimated: {CHARACTERS_A_TOKEN} characters a token (the model's tokenizer is not on this machine yet)"

    def prompt(self, prompt: Prompt) -> str:
        """The prompt as the model sees it, special tokens shown.

        Raises:
            TemplateRefuses: the chat template raised an error for this conversation.
        """
        parts = self._parts(prompt)
        if self.tokenizer is None:
            return "".join(text for text, _ in parts)
        return self._shown([*self._before(prompt), *(token for part in parts for token in self._encode(*part))])

    def reply(self, prompt: Prompt, reply: str) -> str:
        """A reply with the end token that it is trained with."""
        text, end = self._reply_text(prompt, reply), self.special.get("eos_token", "")
        if self._messages(prompt) is not None:
            end = self._turn_end or end
        end_id = None if self.tokenizer is None else self.tokenizer.token_to_id(end)
        return text + end if end_id is None else self._shown([*self._encode(text), end_id])

    def prompt_lengths(self, prompts: Sequence[Prompt]) -> list[int | None]:
        """Tokens of each prompt; None where the template refuses it."""
        found: list[int | None] = []
        for prompt in prompts:
            try:
                found.append(
                    max(1, len(self._before(prompt)) + sum(self._length(*part) for part in self._parts(prompt)))
                )
            except TemplateRefuses:
                found.append(None)
        return found

    def reply_lengths(self, replies: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Tokens of each reply, its end token among them."""
        return [1 + self._length(self._reply_text(*reply)) for reply in replies]

    # --- the rules of `chat.Chat` -------------------------------------------------------------------------------------

    def _parts(self, prompt: Prompt) -> list[tuple[str, bool]]:
        """The prompt in pieces, each with whether special tokens in it are meant."""
        messages = self._messages(prompt)
        if messages is None:
            return [(prompt.text, False)]
        try:
            return markup.pieces(self._render, messages, self._special)
        except DataError as error:
            raise TemplateRefuses(error.what) from error

    def _messages(self, prompt: Prompt) -> Sequence[Mapping[str, str]] | None:
        if self.mode == "plain" or not self.template:
            return None
        if prompt.messages is not None:
            return prompt.messages
        return [{"role": "user", "content": prompt.text}] if self.mode == "chat" else None

    def _reply_text(self, prompt: Prompt, reply: str) -> str:
        if self._messages(prompt) is not None:
            return reply.removeprefix(" ")
        follows = prompt.text.endswith(ASSISTANT) and not reply[:1].isspace()
        return f" {reply}" if follows else reply

    @cached_property
    def _turn_end(self) -> str | None:
        try:
            return markup.turn_end(lambda talk: self._render(talk, answer=False), self._special)
        except TemplateRefuses:
            return None

    def _before(self, prompt: Prompt) -> list[int]:
        """What the tokenizer itself puts before plain text; a template brings its own."""
        return self._begin if self._messages(prompt) is None else []

    @cached_property
    def _begin(self) -> list[int]:
        if self.tokenizer is None:
            return []
        bare, full = self._encode("a"), list(self.tokenizer.encode("a").ids)
        return full[: next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)]

    def _encode(self, text: str, meant: bool = False) -> list[int]:
        assert self.tokenizer is not None
        self.tokenizer.encode_special_tokens = not meant
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _shown(self, ids: list[int]) -> str:
        assert self.tokenizer is not None
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _length(self, text: str, meant: bool = False) -> int:
        if self.tokenizer is None:
            return -(-len(text) // CHARACTERS_A_TOKEN)
        return len(self._encode(text[:LONGEST], meant)) * max(LONGEST, len(text)) // LONGEST

    def _render(self, messages: Sequence[Mapping[str, str]], answer: bool = True) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self._compiled(
                    messages=list(messages), tools=None, documents=None, add_generation_prompt=answer,
                    **(self.special | self.template_kwargs),
                )
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError) as error:
            raise TemplateRefuses(str(error).strip() or type(error).__name__) from error

    @cached_property
    def _compiled(self) -> Callable[..., str]:
        return _environment().from_string(self.template or "").render


def plan_tokens(spec: ModelSpec) -> PlanTokens:
    """The tokenizer that goes with a plan: of the model's folder, of the hub's cache, or the embedded base's. Asks no network."""
    if not spec.path:
        from tokenizers import Tokenizer, models, pre_tokenizers

        # As `mini.base.make_tokenizer` makes it; the base itself may not be built yet.
        table = {word: index for index, word in enumerate(orders.vocabulary())}
        words = Tokenizer(models.WordLevel(table, unk_token=orders.UNKNOWN))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PlanTokens(spec, {}, words)
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    if Path(spec.path).is_dir():
        found = {name: Path(spec.path) / name for name in names}
    else:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = {name: try_to_load_from_cache(spec.path, name, revision=spec.revision) for name in names}
        except HFValidationError:
            cached = {}
        found = {name: Path(path) for name, path in cached.items() if isinstance(path, str)}
    return PlanTokens(spec, {name: path for name, path in found.items() if path.is_file()})


def _tokenizer(file: Path | None) -> Tokenizer | None:
    if file is None:
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception:  # of a newer format, or damaged: loading the model says so, with its own words
        return None


def _json(file: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8")) if file is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def _template(config: Mapping[str, Any], file: Path | None) -> str | None:
    """The file wins; of several in the configuration, the one called default."""
    if file is not None:
        return file.read_text("utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next((item.get("template") for item in found if item.get("name") == "default"), None)
    return found or None


def _environment() -> Any:
    """Jinja as Transformers sets it up for chat templates: a sandbox, and the few things that templates call."""
    from datetime import datetime

    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}` marks the assistant's words for training; the text is the same."""

        tags = {"generation"}  # noqa: RUF012 (so Jinja has it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    made.filters["tojson"] = to_json
    made.globals |= {
        "raise_exception": refuse, "strftime_now": lambda format: datetime.now().strftime(format)
    }  # fmt: skip
    return made
