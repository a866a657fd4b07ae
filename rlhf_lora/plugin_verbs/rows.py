"""Answers to score without a model: of a data file in any format that the kit reads, of a run's samples, or the kit's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lora import registry
from rlhf_lora.errors import DataError, RlhfLoraError
from rlhf_lora.records import Data, Prompt, Sample, prompt_of
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.testing import samples as inputs


@dataclass(frozen=True)
class Row:
    """One answer. `number` is the row of the data that it stands in, `which` what the data calls it."""

    number: int
    which: str
    sample: Sample


def own() -> list[Row]:
    """The kit's own eight."""
    return [Row(number, "kit's own", sample) for number, sample in enumerate(inputs.ordinary(), 1)]


def of_file(path: str, limit: int | None = None) -> list[Row]:
    """The answers of the first `limit` rows.

    Raises:
        DataError: a file that cannot be read, or one with prompts and no answers.
    """
    data: Data = registry.build("dataset", {"name": "jsonl", "path": path, "limit": limit}, where="--data").load()
    found = [Row(number, which, _sample(prompt, text)) for number, (prompt, answers) in enumerate(_answers(data), 1)
             for which, text in answers]  # fmt: skip
    if not found:
        raise DataError(
            f"{path} holds {len(data.prompts)} prompts and no answers", where=f"--data {path}",
            fix="give rows with a completion, or chosen and rejected; or the answers of a run: --run RUN",
        )  # fmt: skip
    return found


def _answers(data: Data) -> Iterator[tuple[Prompt, list[tuple[str, str]]]]:
    """(prompt, its answers with what the data calls them). A chosen answer is a demonstration as well: it is told once."""
    told = set()
    for pair in data.pairs:
        told |= {(pair.prompt.text, pair.chosen), (pair.prompt.text, pair.rejected)}
        yield pair.prompt, [("chosen", pair.chosen), ("rejected", pair.rejected)]
    for label in data.labels:
        yield label.prompt, [("good" if label.good else "bad", label.completion)]
    for row in data.demonstrations:
        if (row.prompt.text, row.completion) not in told:
            yield row.prompt, [("completion", row.completion)]


def _sample(prompt: Prompt, text: str) -> Sample:
    return Sample(prompt.text, text, messages=prompt.messages, columns=prompt.columns)


@dataclass(frozen=True)
class Stored:
    """A sample that a run kept, with the score that it got then (None where it got none).

    Attributes:
        update: the update it was sampled for; None for the evaluation after training.
        who: `policy` or `reference`.
    """

    update: int | None
    who: str
    sample: Sample
    score: float | None


def of_run(folder: RunFolder, columns: Sequence[str] = ()) -> tuple[list[Stored], str]:
    """All samples that a run kept, and a note on what they lack ("" where they are whole).

    Columns and conversations are not stored with samples; they come from the run's data, by prompt.

    Raises:
        DataError: the run has no samples, or `columns` are asked for and the run's data cannot be read or lacks them.
    """
    steps = folder.sample_steps("policy")
    kept = [(step, row) for step in steps for row in folder.read_samples("policy", step)]
    found = [Stored(step, "policy", _stored(row), row.get("score")) for step, row in kept]
    for row in folder.read_samples("evaluation"):
        for who in ("reference", "policy"):
            if row.get(f"{who}_text") is not None:
                sample = Sample(row["prompt"], row[f"{who}_text"], finished=bool(row.get(f"{who}_finished", True)))
                found.append(Stored(None, who, sample, row.get(f"{who}_score")))
    if not found:
        fix = "give a run that was trained against a reward; samples_every=1 keeps every update's"
        raise DataError("this run has kept no samples", where=f"--run {folder.path}", fix=fix)
    prompts, unclear, why = _prompts(folder)
    if columns and not prompts:
        raise DataError(f"the columns {', '.join(columns)} are in the run's data, which cannot be read: {why}",
                        where=f"--run {folder.path}", fix="run the command where the data file is")  # fmt: skip
    without = several = 0
    for stored in found:
        prompt = prompts.get(stored.sample.prompt)
        without += prompt is None or stored.sample.prompt in unclear
        several += stored.sample.prompt in unclear
        if prompt is not None:
            stored.sample.messages, stored.sample.columns = prompt.messages, prompt.columns
    if several:
        why = f"the prompt of {several} stands in several rows that differ"
    note = f"{without} of {len(found)} samples are without their data row (conversation, columns){f': {why}' if why else ''}"
    return found, note if without else ""


def _stored(row: dict[str, Any]) -> Sample:
    return Sample(
        row["prompt"], row["text"], tokens=row.get("tokens"), logprobs=row.get("logprobs"), finished=bool(row.get("finished", True))
    )  # fmt: skip


def _prompts(folder: RunFolder) -> tuple[dict[str, Prompt], set[str], str]:
    """Prompt text → prompt, of the data that the policy's prompts came from; empty with a reason when it cannot be read.

    And the texts that stand in rows which differ: nobody knows which of them a sample answered, so their prompt has only
    what all of them agree on.
    """
    config = folder.config
    node = (config.get("policy") or {}).get("dataset") or config.get("dataset")
    if not isinstance(node, dict):
        return {}, set(), "the run folder does not say which"
    found, unclear = dict[str, Prompt](), set[str]()
    try:
        data = registry.build("dataset", node).load()
    except RlhfLoraError as error:
        return {}, set(), str(error).splitlines()[0]
    for part in (data, data.test) if data.test else (data,):
        for name in ("demonstrations", "pairs", "labels", "prompts", "rankings", "ratings"):
            for record in getattr(part, name):
                prompt = prompt_of(record)
                known = found.setdefault(prompt.text, prompt)
                if (known.messages, known.columns) != (prompt.messages, prompt.columns):
                    unclear.add(prompt.text)
                    found[prompt.text] = _agreed(known, prompt)
    return found, unclear, ""


def _agreed(a: Prompt, b: Prompt) -> Prompt:
    """What two rows of one prompt both say."""
    columns = {name: value for name, value in a.columns.items() if name in b.columns and b.columns[name] == value}
    return Prompt(a.text, a.messages if a.messages == b.messages else None, columns)
