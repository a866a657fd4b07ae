"""From text to tokens and back: one place decides template, begin and end tokens, and which tokens are the response.

Every stage (SFT, reward model, DPO, rollout, evaluation) goes through `Chat`, so none of them can differ in template,
double a begin token, or disagree about where a response ends. Padding ids never decide anything: masks come from
lengths, so that a tokenizer whose pad token is its end token, or that has none, works.

Text is text: a `<|im_end|>` that somebody wrote into a prompt or a reply is spelt out in ordinary tokens, so data and
policies cannot end a turn, or forge one, in the eyes of the model that reads them. Only templates write markup.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlhf_lora import markup
from rlhf_lora.errors import DataError, ModelError
from rlhf_lora.records import ASSISTANT, Message, Prompt

Mode = Literal["auto", "chat", "plain"]


class Chat:
    """Tokenizer and template of one model.

    Args:
        tokenizer: a Transformers tokenizer with an end token, or a `BareTokenizer`.
        mode: `auto` applies the model's chat template to prompts that carry messages and leaves plain prompts as they
            are; `chat` wraps plain prompts into one user turn; `plain` never uses the template.
        template_kwargs: given to the chat template, e.g. `{"enable_thinking": False}`.
        stop_ids: tokens that end a reply beside the end token; Llama 3's `generation_config.json` lists three.

    Raises:
        ModelError: no end token; `chat` for a tokenizer without template.
    """

    def __init__(
        self,
        tokenizer: Any,
        mode: Mode = "auto",
        template_kwargs: Mapping[str, Any] | None = None,
        stop_ids: Sequence[int] = (),
    ):
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end token, so no response could ever end",
                where="tokenizer_config.json: eos_token",
                fix="set eos_token to the token that ends a reply (for chat models often '<|im_end|>')",
            )
        if mode == "chat" and not tokenizer.chat_template:
            raise ModelError(
                "the tokenizer has no chat template", where="model.template=chat", fix="model.template=plain"
            )
        self.tokenizer = tokenizer
        self.mode = mode
        self.template_kwargs = dict(template_kwargs or {})
        self.end_id: int = tokenizer.eos_token_id
        self._special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.turn_end_id = self._turn_end_id()
        self.stop_ids = frozenset([self.end_id, self.turn_end_id, *stop_ids])
        self.fill_id = self._fill_id()
        self._begin = self._begin_ids()

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, ready for the first response token. Never empty.

        Raises:
            DataError: the model's template refuses the conversation.
        """
        messages = self._messages(prompt)
        if messages is None:
            ids = self._begin + self._encode(prompt.text)
        else:
            ids = self._conversation_ids(messages)
        return ids or [self.end_id]

    def response_ids(self, text: str, finished: bool = True, prompt: Prompt | None = None) -> list[int]:
        """Token ids of a response to `prompt`; with the token that ends it when it is finished.

        In a plain transcript a space follows "Assistant:", as a part of the reply; a template brings its own.
        """
        end = self.end_id
        if prompt is not None and self._messages(prompt) is not None:
            text, end = text.removeprefix(" "), self.turn_end_id
        elif prompt is not None and prompt.text.endswith(ASSISTANT) and not text[:1].isspace():
            text = f" {text}"
        return self._encode(text) + ([end] if finished else [])

    def decode(self, ids: Sequence[int]) -> str:
        """The text a person reads: no special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def rendered(self, prompt: Prompt) -> str:
        """The prompt as the model sees it, special tokens shown."""
        return str(self.tokenizer.decode(self.prompt_ids(prompt)))

    @property
    def template_hash(self) -> str:
        """12 hex digits over everything that decides how text becomes tokens, the vocabulary aside."""
        parts = [
            self.mode, self.tokenizer.chat_template, self.template_kwargs, self.end_id, sorted(self.stop_ids), self._begin,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def _messages(self, prompt: Prompt) -> Sequence[Message] | None:
        if self.mode == "plain" or not self.tokenizer.chat_template:
            return None
        if prompt.messages is not None:
            return prompt.messages
        return [{"role": "user", "content": prompt.text}] if self.mode == "chat" else None

    def _conversation_ids(self, messages: Sequence[Message]) -> list[int]:
        # The template writes its own begin token; encoding its text must not add a second one.
        parts = markup.pieces(self._applied, messages, self._special)
        return [token for text, meant in parts for token in self._encode(text, meant)]

    def _turn_end_id(self) -> int:
        """What ends a reply in a conversation: what the template writes there, else the end token."""
        if self.mode == "plain" or not self.tokenizer.chat_template:
            return self.end_id
        try:
            token = markup.turn_end(lambda talk: self._applied(talk, answer=False), self._special)
        except DataError:  # a template for other roles; conversations will be told so
            return self.end_id
        return self.end_id if token is None else int(self.tokenizer.convert_tokens_to_ids(token))

    def _applied(self, messages: Sequence[Message], answer: bool = True) -> str:
        from jinja2.exceptions import TemplateError

        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer, **self.template_kwargs
            )
        # "Roles must alternate", "system role not supported"; the others where it calculates with what is not there.
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise DataError(
                f"the model's chat template refuses a conversation: {error}",
                where=f"{' → '.join(turn['role'] for turn in messages)}, beginning {messages[0]['content'][:60]!r}",
                fix="model.template=plain, or bring the conversations into the roles and the order it takes",
            ) from error
        return str(rendered)

    def _encode(self, text: str, meant: bool = False) -> list[int]:
        """Token ids of a text; special tokens in it are tokens of their own only where they are `meant`."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not meant, verbose=False)
        return list(encoded["input_ids"])

    def _begin_ids(self) -> list[int]:
        """What the tokenizer itself puts before plain text (a begin token, or nothing)."""
        bare, full = self._encode("a"), list(self.tokenizer("a")["input_ids"])
        start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return full[:start]

    def _fill_id(self) -> int:
        """Any id that is no stop id: what stands in padded places is masked by length, never by its id."""
        # Not the padding token: some tokenizers bring one that lies outside the model's vocabulary.
        return next(i for i in range(len(self.tokenizer)) if i not in self.stop_ids)
