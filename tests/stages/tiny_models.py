"""Models of one layer, made from a configuration, in Transformers layout; and data of their own words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from rlhf_lora.records import Demonstration, Pair, Prompt

WORDS = [f"w{i}" for i in range(60)]
UNKNOWN, END, PAD, FIRST_WORD = 0, 1, 2, 3


def make_base(folder: Path, architecture: str = "llama", pad: str | None = None, wide: int = 64) -> Path:
    """A random base. `pad`: its padding token: None = it has none, "</s>" = the end token.

    Llama has one token per word; Qwen2 one per character, since Transformers gives it a byte-level tokenizer whatever
    the folder holds.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_characters(pad) if architecture == "qwen2" else make_words(pad)
    shape: dict[str, Any] = dict(  # noqa: C408
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=wide, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=END,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if architecture == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.1)
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_words(pad: str | None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {word: i for i, word in enumerate(["<unk>", "</s>", "<pad>", *WORDS])}
    words = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": pad} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def make_characters(pad: str | None) -> Any:
    from transformers import Qwen2Tokenizer

    letters = ["<unk>", "</s>", "<pad>", *"w0123456789", "Ġ", "<|endoftext|>"]
    table = {letter: i for i, letter in enumerate(letters)}
    return Qwen2Tokenizer(vocab=table, merges=[], eos_token="</s>", unk_token="<unk>", pad_token=pad or "<|endoftext|>")


def make_pairs(n: int, seed: int = 0) -> list[Pair]:
    """Pairs that can be learnt: the chosen answer is made of the first thirty words, the rejected one of the others."""
    draw = random.Random(seed)

    def text(words: list[str], low: int, high: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))

    return [Pair(Prompt(text(WORDS, 2, 6)), text(WORDS[:30], 1, 8), text(WORDS[30:], 1, 8)) for _ in range(n)]


def make_demonstrations(n: int, seed: int = 0) -> list[Demonstration]:
    return [Demonstration(pair.prompt, pair.chosen) for pair in make_pairs(n, seed)]
