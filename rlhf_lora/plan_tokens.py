"""Text as the model will see it, for the plan: what `chat.Chat` makes of it, on a tokenizer that loads in milliseconds.

Where no tokenizer is at hand, without the network, lengths are estimated from characters, and `said` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import ceil

from rlhf_lora.bare_tokenizer import CHARACTERS_A_TOKEN, FILES, BareTokenizer, read
from rlhf_lora.chat import Chat
from rlhf_lora.errors import DataError
from rlhf_lora.mini import bases, orders
from rlhf_lora.model_spec import ModelSpec, file_of
from rlhf_lora.records import Prompt

LONGEST = 50_000
"""Characters of one text that are counted; a longer one counts in proportion. It is beyond every limit anyway."""


class TemplateRefuses(ValueError):
    """The chat template cannot be used for this conversation; in its own words where it has some."""


class PlanTokens:
    """Counts tokens and renders prompts and replies."""

    def __init__(self, spec: ModelSpec, tokenizer: BareTokenizer):
        self.exact, self.tokenizer = tokenizer.exact, tokenizer
        self._lacks_template = spec.template == "chat" and not tokenizer.chat_template
        self.chat = Chat(tokenizer, "plain" if self._lacks_template else spec.template, spec.template_kwargs)

    @property
    def said(self) -> str:
        """How lengths are counted."""
        if not self.exact:
            return (
                f"estimated: {CHARACTERS_A_TOKEN} characters a token (the model's tokenizer is not on this machine yet)"
            )
        lacks = "; it has no chat template, which model.template=chat asks for" if self._lacks_template else ""
        return f"tokens of the model's own tokenizer{lacks}"

    def prompt(self, prompt: Prompt) -> str:
        """The prompt as the model sees it, special tokens shown.

        Raises:
            TemplateRefuses: the chat template raised an error for this conversation.
        """
        try:
            return self.chat.rendered(prompt)
        except DataError as error:
            raise TemplateRefuses(str(error.__cause__ or "").strip() or error.what) from error

    def reply(self, prompt: Prompt, reply: str) -> str:
        """A reply with the end token that it is trained with."""
        return self.tokenizer.decode(self.chat.response_ids(reply, prompt=prompt))

    def prompt_lengths(self, prompts: Sequence[Prompt]) -> list[int | None]:
        """Tokens of each prompt; None where the template refuses it."""
        return [self._prompt_length(prompt) for prompt in prompts]

    def reply_lengths(self, replies: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Tokens of each reply, its end token among them."""
        found = []
        for prompt, reply in replies:
            counted = len(self.chat.response_ids(reply[:LONGEST], finished=False, prompt=prompt))
            found.append(1 + counted * max(LONGEST, len(reply)) // LONGEST)
        return found

    def _prompt_length(self, prompt: Prompt) -> int | None:
        longest = max(len(prompt.text), sum(len(turn["content"]) for turn in prompt.messages or ()))
        share = min(1.0, LONGEST / max(1, longest))
        try:
            return int(len(self.chat.prompt_ids(prompt if share == 1 else _beginning(prompt, share))) / share)
        except DataError:
            return None


def _beginning(prompt: Prompt, share: float) -> Prompt:
    """The first part of its text, and of each message: whichever of them is read is shorter in this proportion."""
    turns = [
        {**turn, "content": turn["content"][: ceil(share * len(turn["content"]))]} for turn in prompt.messages or ()
    ]
    text = prompt.text[: ceil(share * len(prompt.text))]
    return dataclasses.replace(prompt, text=text, messages=tuple(turns) or None)


def plan_tokens(spec: ModelSpec, mini: bases.AnyBase | None = None) -> PlanTokens:
    """The tokenizer that goes with a plan: of the model's folder, of the hub's cache, or the embedded base's. Asks no network."""
    if not spec.path:
        return PlanTokens(spec, _embedded(mini))
    files = {name: path for name in FILES if (path := file_of(spec.path, name, spec.revision)) is not None}
    return PlanTokens(spec, read(files))


def _embedded(mini: bases.AnyBase | None) -> BareTokenizer:
    """As `mini.base.make_tokenizer` makes it; the base itself may not be built yet."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    table = {word: index for index, word in enumerate(bases.vocabulary(mini))}
    words = Tokenizer(models.WordLevel(table, unk_token=orders.UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return BareTokenizer(words, {"eos_token": orders.END, "unk_token": orders.UNKNOWN})
