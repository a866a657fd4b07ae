"""A listener that asks a model in this process: a role on a backbone, the run's own or another one.

A word of a menu is not sampled: its probability is read from one forward pass per question, many at once. Where one choice
begins another (`1` and `10` in a tokenizer of digits), what may follow is read too, so that `1` counts as `1` and no more:

    P(1) = p("1") · (1 − p("0" after "1")),   P(10) = p("1") · p("0" after "1")

Roles are taken and given back as everybody does (`Backbone.role`): nothing is active afterwards that was not before, and the
role table restores who is trained.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lora import registry
from rlhf_lora.errors import DataError, ModelError
from rlhf_lora.judging.questions import Answer, Question, Readable
from rlhf_lora.records import Message, Prompt, named_seed, transcript

GREEDY = 1e-3
"""Temperature that stands for 0 where words are drawn: the likeliest token, unless two are as good as equal."""

Sequences = Mapping[tuple[int, ...], str]
"""Token ids → the choice that they spell."""


class OwnModel:
    """Asks a role of a backbone.

    Args:
        bare: questions are text that the model continues, without template or heads of turns.
        batch: questions in one forward pass; None: as many as the backbone takes where no gradient is kept.
        longest: tokens of question and answer; a longer one is answered with an error. The model's own limit holds too.
        least_mass: less probability than this on all choices together is unreadable: something else was about to be said.

    Raises:
        ModelError: the vocabulary does not tell A from B.
    """

    def __init__(
        self, backbone: Any, role: str, *, bare: bool = False, batch: int | None = None, longest: int = 4096,
        least_mass: float = 0.0, seed: int = 0,
    ):  # fmt: skip
        self.backbone, self.role, self.bare, self.batch, self.seed = backbone, role, bare, batch, seed
        self.least_mass = least_mass
        self.longest = min(longest, getattr(backbone.base.config, "max_position_embeddings", None) or longest)
        self._sequences(Prompt("?"), ("A", "B"))

    def ask(self, questions: Sequence[Question], readable: Readable | None = None) -> list[Answer]:
        """One answer for each question, in order. Asking again would give the same, so nothing is asked twice."""
        put = [self._put(question) for question in questions]
        prompts, ids = [prompt for prompt, _ in put], [tokens for _, tokens in put]
        answers: list[Any] = [None] * len(questions)
        kinds: dict[Any, list[int]] = {}
        for i, question in enumerate(questions):
            if (size := len(ids[i]) + (1 if question.choices else question.max_tokens)) > self.longest:
                why = f"too long: {size} tokens, where the judge takes {self.longest}"
                answers[i] = Answer(question.id, "error", reason=why)
            else:
                written = () if question.choices else (question.max_tokens, question.temperature)
                kinds.setdefault((question.choices, *written), []).append(i)
        for kind, rows in kinds.items():
            asked, told = [questions[i] for i in rows], [prompts[i] for i in rows]
            found = self._chosen(asked, told, [ids[i] for i in rows]) if kind[0] else self._written(asked, told)
            for i, answer in zip(rows, found, strict=True):
                answers[i] = answer
        return answers

    def close(self) -> None:
        """The backbone is its maker's."""

    # --- one word of a menu -------------------------------------------------------------------------------------------

    def _chosen(
        self, questions: Sequence[Question], prompts: Sequence[Prompt], ids: Sequence[list[int]]
    ) -> list[Answer]:
        sequences = self._sequences(prompts[0], questions[0].choices)
        contexts = sorted({tokens[:k] for tokens in sequences for k in range(len(tokens))})
        after = {context: sorted({t[len(context)] for t in sequences if _begins(t, context)}) for context in contexts}
        rows = [(i, context) for i in range(len(ids)) for context in contexts]
        read = self._next([[*ids[i], *context] for i, context in rows], [after[context] for _, context in rows])
        tables: list[dict[Any, dict[int, float]]] = [{} for _ in ids]
        likeliest = [0] * len(ids)
        for (i, context), (table, top) in zip(rows, read, strict=True):
            tables[i][context] = table
            likeliest[i] = top if not context else likeliest[i]
        return [
            self._answer(question, sequences, table, top)
            for question, table, top in zip(questions, tables, likeliest, strict=True)
        ]

    def _answer(
        self, question: Question, sequences: Sequences, table: Mapping[Any, Mapping[int, float]], top: int
    ) -> Answer:
        mass = masses(sequences, table)
        total = math.fsum(mass.values())
        if not math.isfinite(total):
            return Answer(question.id, "error", reason="the model's log-probs are not finite")
        if total <= self.least_mass:
            word = self.backbone.chat.tokenizer.decode([top])
            why = f"{total:.2g} of the probability is on {', '.join(question.choices)}; it was about to say {word!r}"
            return Answer(question.id, "unreadable", reason=why)
        shares = {choice: p / total for choice, p in mass.items()}
        return Answer(question.id, "text", max(shares, key=lambda choice: shares[choice]), shares)

    def _next(self, ids: Sequence[list[int]], wanted: Sequence[Sequence[int]]) -> list[tuple[dict[int, float], int]]:
        """Of each row, the probabilities of the wanted next tokens, and the likeliest next token of all."""
        import torch

        backbone = self.backbone
        found: list[tuple[dict[int, float], int]] = [({}, 0)] * len(ids)
        with torch.no_grad(), backbone.role(self.role):
            for index, padded in backbone.micro_batches(ids, [[] for _ in ids], self.batch, show="judge"):
                hidden_BSD = backbone.hidden(padded.ids_BS, padded.attention_BS, padded.positions_BS)
                last_BD = hidden_BSD[:, -1].to(backbone.head_weight_VD.dtype)  # prompts end in one column
                probs_BV = torch.softmax((last_BD @ backbone.head_weight_VD.T).float(), dim=1)
                tops = probs_BV.argmax(1).tolist()
                for row, i in enumerate(index):
                    values = probs_BV[row, list(wanted[i])].tolist()
                    found[i] = (dict(zip(wanted[i], values, strict=True)), tops[row])
        return found

    def _sequences(self, prompt: Prompt, choices: Sequence[str]) -> Sequences:
        return spellings(self.backbone.chat, choices, self.bare, prompt, f"model {self.backbone.spec.path}")

    # --- free text ----------------------------------------------------------------------------------------------------

    def _written(self, questions: Sequence[Question], prompts: Sequence[Prompt]) -> list[Answer]:
        settings = {
            "max_new_tokens": questions[0].max_tokens, "temperature": max(GREEDY, questions[0].temperature),
        }  # fmt: skip
        engine = registry.build("rollout", {"name": "native", **settings})
        said = hashlib.sha256("\0".join(p.text for p in prompts).encode("utf-8", "surrogatepass")).hexdigest()
        samples = engine.generate(self.backbone, prompts, 1, named_seed(self.seed, said), role=self.role)
        return [
            # Models that think before they speak: what they thought is not what they said.
            Answer(question.id, "text", sample.text.rpartition("</think>")[2].strip())
            for question, sample in zip(questions, samples, strict=True)
        ]

    # --- how it is put ------------------------------------------------------------------------------------------------

    def _put(self, question: Question) -> tuple[Prompt, list[int]]:
        """A question as the model reads it, and its token ids."""
        chat, messages = self.backbone.chat, question.messages
        if self.bare and question.choices:
            prompt = Prompt("\n".join(turn["content"] for turn in messages))
            return prompt, list(chat.prompt_ids(prompt))
        prompt = Prompt(transcript(messages), messages)
        try:
            return prompt, list(chat.prompt_ids(prompt))
        except DataError:  # some templates know no system turn: then it stands at the head of the first user turn
            if messages[0]["role"] != "system":
                raise
        prompt = Prompt(prompt.text, _without_system(messages))
        return prompt, list(chat.prompt_ids(prompt))


def spellings(chat: Any, choices: Sequence[str], bare: bool, prompt: Prompt, where: str) -> Sequences:
    """How each choice may be spelt where the answer begins: as the template has it, or as one token, with a space or without.

    Raises:
        ModelError: two choices are spelt the same.
    """
    found = dict[tuple[int, ...], str]()
    for choice in choices:
        ways = [chat.response_ids(f" {choice}" if bare else choice, False, prompt)]
        ways += [one for word in (choice, f" {choice}") if len(one := chat.response_ids(word, False)) == 1]
        for way in ways:
            if found.setdefault(tuple(way), choice) != choice:
                raise ModelError(
                    f"the model's vocabulary does not tell '{choice}' from '{found[tuple(way)]}', so it cannot judge",
                    where=where,
                    fix="judge.path=MODEL, one that knows these; for dataset=orders a small one is made by "
                    "`python -m rlhf_lora.mini judge --to FOLDER` (docs/judge_base.md)",
                )
    return found


def masses(sequences: Sequences, table: Mapping[tuple[int, ...], Mapping[int, float]]) -> dict[str, float]:
    """How probable each choice is, spelt in any of its ways, and not as the beginning of a longer one.

    Args:
        table: of every beginning of a spelling, the probabilities of the tokens that go on with one.
    """
    found = dict.fromkeys(sequences.values(), 0.0)
    for tokens, choice in sequences.items():
        spelt = math.prod(table[tokens[:k]][tokens[k]] for k in range(len(tokens)))
        found[choice] += spelt * max(0.0, 1 - math.fsum(table.get(tokens, {}).values()))
    return found


def _without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    system, first, *rest = messages
    return ({**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest)


def _begins(tokens: tuple[int, ...], context: tuple[int, ...]) -> bool:
    return len(tokens) > len(context) and tokens[: len(context)] == context
