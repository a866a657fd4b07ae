"""The stage `revisions`: answers, critiques and revisions, step by step, and what becomes of violations on the way.

    answers.jsonl          what the model answered: revision 0
    steps.jsonl            one row a step: id, round, principle, critique, text (null: could not be read, and why)
    demonstrations.jsonl   prompt and last revision, as `dataset=jsonl` reads them

Supervised Constitutional AI, Bai et al. 2022 (arXiv 2212.08073), §3.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_lora import progress
from rlhf_lora.errors import ContractError, Stopped
from rlhf_lora.judging.orders import raised_by
from rlhf_lora.records import Prompt, Sample
from rlhf_lora.revising import ByQuestions, Draft, Principle, Reviser, Revision, drawn
from rlhf_lora.row_file import RowFile, leave_if
from rlhf_lora.scores import awaited

AT_ONCE = 64
Measure = Callable[[Sequence[Sample]], Sequence[Any]]
"""A reward as a yardstick: one `Score` per sample; below 0 is a violation."""


def revise(
    reviser: Reviser, prompts: Sequence[Prompt], answers: Sequence[str], principles: Sequence[Principle], rounds: int,
    file: RowFile, seed: int, missing_share: float = 0.5, interrupted: Callable[[], int | None] = lambda: None,
) -> list[list[str]]:  # fmt: skip
    """Revise each answer `rounds` times, each time by a principle drawn by lot.

    Returns:
        For each prompt its answer and every revision: `rounds` + 1 texts. One that could not be read is the text before.

    Raises:
        Stopped: too many revisions could not be read; the portion that was too many is asked for again when the run is gone on
            with. Interrupted: a signal came. Finished steps are on the disk.
    """
    count = len(prompts)
    sizes = [min(AT_ONCE, count - start) for start in range(0, count, AT_ONCE)] * rounds
    ends = list(itertools.accumulate(sizes, initial=0))
    there = file.rows()
    rows = file.keep(max(end for end in ends if end <= len(there) and not _too_many(there[:end], missing_share)))
    texts = [[answer] for answer in answers]
    for row in rows:
        texts[row["id"]].append(row["text"] if row["text"] is not None else texts[row["id"]][-1])
    with progress.Progress("revisions", rounds * count, start=len(rows)) as bar:
        for first, last in itertools.pairwise(ends):
            if first < len(rows):
                continue
            leave_if(interrupted, "the revisions so far are kept")
            number = first // count + 1
            portion = range(first % count, first % count + last - first)
            drafts = [
                Draft(prompts[i], texts[i][-1], drawn(principles, prompts[i], number, seed), number) for i in portion
            ]
            made = [
                _row(i, draft, revision)
                for i, draft, revision in zip(portion, drafts, _asked(reviser, drafts), strict=True)
            ]
            file.append(made)
            for row in made:
                texts[row["id"]].append(row["text"] if row["text"] is not None else texts[row["id"]][-1])
            rows += made
            unread = _unread(rows)
            bar.update(len(made), unread=str(unread) if unread else None)
            if _too_many(rows, missing_share):
                why = next(row["reason"] for row in reversed(made) if row["text"] is None)
                raise Stopped(
                    f"{unread} of {len(rows)} revisions could not be read, more than scoring.missing_share={missing_share:g} "
                    f"allows; the last time: {why}. What was revised is kept in {file.path}"
                )
    return texts


def figures(
    prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]], measures: Mapping[str, Measure]
) -> dict[str, Any]:  # fmt: skip
    """What came of revising, for the summary.

    Returns:
        `prompts`, `rounds`, `steps`, `changed` (share of steps that changed the text), `unread`, `by_principle` (steps of
        each), and by the name of each measure `mean` and `violations` (share below 0), lists over revisions 0, 1, ….
    """
    rounds, by_principle = len(texts[0]) - 1, dict[str, int]()
    for row in rows:
        by_principle[row["principle"]] = by_principle.get(row["principle"], 0) + 1
    before_after = [(given[i], given[i + 1]) for given in texts for i in range(rounds)]
    found: dict[str, Any] = {
        "prompts": len(prompts), "rounds": rounds, "steps": len(rows),
        "changed": sum(a != b for a, b in before_after) / max(1, len(before_after)),
        "unread": _unread(rows), "by_principle": by_principle,
    }  # fmt: skip
    measured = {
        name: [of_answers(measure, prompts, [given[i] for given in texts]) for i in range(rounds + 1)]
        for name, measure in measures.items()
    }
    for name, steps in measured.items():
        if all(steps):
            found.setdefault("measures", {})[name] = {
                key: [step[key] for step in steps] for key in ("mean", "violations")
            }
    return found


def of_answers(measure: Measure, prompts: Sequence[Prompt], answers: Sequence[str]) -> dict[str, float]:
    """Mean, and share of violations (below 0), of answers that can be measured; empty where none can."""
    samples = [
        Sample(p.text, text, messages=p.messages, columns=p.columns) for p, text in zip(prompts, answers, strict=True)
    ]
    values = [score.value for score in measure(samples) if score.value is not None]
    if not values:
        return {}
    return {"mean": sum(values) / len(values), "violations": sum(value < 0 for value in values) / len(values)}


def _unread(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row["text"] is None for row in rows)


def _too_many(rows: Sequence[Mapping[str, Any]], share: float) -> bool:
    return _unread(rows) > share * len(rows)


def _asked(reviser: Reviser, drafts: Sequence[Draft]) -> Sequence[Revision]:
    name = type(reviser.listener if isinstance(reviser, ByQuestions) else reviser).__name__
    with raised_by(f"the reviser '{name}'"):
        given = awaited(reviser.revise_all(drafts))
    if not isinstance(given, Sequence) or not all(isinstance(one, Revision) for one in given):
        raise ContractError(f"the reviser '{name}' gave {type(given).__name__}; wanted a list of Revisions")
    if len(given) != len(drafts):
        raise ContractError(f"the reviser '{name}' gave {len(given)} revisions for {len(drafts)} drafts")
    return given


def _row(place: int, draft: Draft, revision: Revision) -> dict[str, Any]:
    row = {
        "id": place, "round": draft.round, "principle": draft.principle.id, "critique": revision.critique,
        "text": revision.text,
    }  # fmt: skip
    return row if revision.text is not None else row | {"reason": revision.reason or "no revision"}
