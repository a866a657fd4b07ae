"""A model's tokenizer without Transformers: as much of one as `chat.Chat` asks for.

Read from `tokenizer.json` and the small files beside it in milliseconds, where importing Transformers takes seconds. The
plan counts and shows with it; a test holds it to what Transformers makes of the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rlhf_lora.jinja_template import renderer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
CHARACTERS_A_TOKEN = 4
"""English in a vocabulary of 32,000 or more; code and other scripts have fewer."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class BareTokenizer:
    """The part of a Transformers tokenizer that `Chat` uses.

    Args:
        words: turns text into ids and back; None estimates, with a token for every four characters.
        special: the special tokens by name (`eos_token`, …); templates know them by these names.

    Attributes:
        exact: whether these are the model's own tokens.
        eos_token_id: an id behind the vocabulary, which is counted and shown as nothing, where no end token is named:
            some tokenizer classes of Transformers know theirs without a file.
    """

    def __init__(self, words: Tokenizer | None, special: Mapping[str, str], chat_template: str | None = None):
        self.exact, self.special, self.chat_template = words is not None, dict(special), chat_template
        self._words: Any = words or FourCharacters()
        known = {token.content for token in self._words.get_added_tokens_decoder().values()}
        self._words.add_special_tokens([token for token in special.values() if token not in known])
        self.added_tokens_decoder: Mapping[int, Any] = self._words.get_added_tokens_decoder()
        self.convert_tokens_to_ids: Callable[[str], Any] = self._words.token_to_id
        end = self.convert_tokens_to_ids(special["eos_token"]) if "eos_token" in special else None
        self.eos_token_id = len(self) if end is None else end

    def __len__(self) -> int:
        return int(self._words.get_vocab_size())

    def __call__(
        self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False, verbose: bool = True
    ) -> dict[str, list[int]]:
        """Token ids of a text; `split_special_tokens` spells out special tokens that stand in it."""
        self._words.encode_special_tokens = split_special_tokens
        return {"input_ids": self._words.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return str(self._words.decode(ids, skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], tokenize: bool, add_generation_prompt: bool, **variables: Any
    ) -> str:
        """The conversation as text; the chat template decides. `tokenize` is False wherever `Chat` asks.

        Raises:
            jinja2.TemplateError: the template refuses the conversation.
        """
        given = {"messages": messages, "tools": None, "documents": None, **self.special, **variables}
        return renderer(self.chat_template or "")(add_generation_prompt=add_generation_prompt, **given)


class FourCharacters:
    """Stands where a `tokenizers.Tokenizer` would, when none is at hand: a token for every four characters.

    Its ids are the pieces of text themselves, so that it shows what it was given.
    """

    def add_special_tokens(self, tokens: Sequence[str]) -> None:
        """None are told apart: they are estimated as text is."""

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return {}

    def get_vocab_size(self) -> int:
        return 1

    def token_to_id(self, token: str) -> str:
        return token

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        size = CHARACTERS_A_TOKEN
        return SimpleNamespace(ids=[text[at : at + size] for at in range(0, len(text), size)])

    def decode(self, ids: Sequence[str | int], skip_special_tokens: bool) -> str:
        return "".join(piece for piece in ids if isinstance(piece, str))


def read(files: Mapping[str, Path]) -> BareTokenizer:
    """The tokenizer that these files make; one that estimates when `tokenizer.json` is missing or cannot be read.

    Args:
        files: names in `FILES` → where they lie, those that are there.
    """
    config = _json(files.get("tokenizer_config.json"))
    named = dict(config)
    if "added_tokens_decoder" not in config:  # an older layout, where the map of special tokens wins
        named |= _json(files.get("special_tokens_map.json"))
    special = {name: _text(named[name]) for name in SPECIAL if named.get(name)}
    template = _template(config, files.get("chat_template.jinja"))
    return BareTokenizer(_words(files.get("tokenizer.json")), special, template)


def _words(file: Path | None) -> Tokenizer | None:
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
