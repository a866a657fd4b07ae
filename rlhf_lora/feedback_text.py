"""What AI feedback came to, in sentences: who labelled, how surely, and what became of violations. For terminal, report, card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def lines(summary: Mapping[str, Any]) -> list[str]:
    """A line for each stage of AI feedback that a run had; none for other runs."""
    found = []
    if revisions := summary.get("revisions"):
        found += _revisions(revisions)
    if measured := summary.get("revised_sft"):
        found += _measured(measured)
    if labels := summary.get("ai_labels"):
        found += _labels(labels)
    if spent := summary.get("judge_spent"):
        usd = f", {spent['usd']:.4f} US dollars" if spent["usd"] else ""
        found.append(
            f"the judge's server: {spent['calls']:,} calls, {spent['tokens']:,} tokens{usd} in all starts of this run"
        )
    return found


def _labels(figures: Mapping[str, Any]) -> list[str]:
    what = (
        "answers of the data, compared anew" if figures["pairs"] == "relabel" else "answers of the SFT policy, compared"
    )
    orders = "in both orders" if figures["orders"] == "both" else "in one order"
    kept = f", beside {figures['kept']:,} that are the data's own" if figures.get("kept") else ""
    said = f"AI labels: {figures['labels']:,} by judge={figures['judge']} ({what} {orders}){kept}"
    said += f"; {figures['ties']:,} ties, {figures['unread']:,} that could not be read, {figures['calls']:,} questions"
    found, told = [said], []
    for name, whom in (("agreement", "the data's labels"), ("gold_agreement", "the truth")):
        if name in figures:
            told.append(
                f"{figures[name]:.3f}{_interval(figures, name)} with {whom} ({figures[f'{name}_of']:,} comparisons)"
            )
    if told:
        found.append(f"AI labels agree {', '.join(told)}")
    if "flips" in figures:
        found.append(
            f"order: {_percent(figures['flips'])} of comparisons changed with it before averaging; what is read first is chosen "
            f"{_percent(figures['first_chosen'])} of the time"
            if "first_chosen" in figures
            else f"order: {_percent(figures['flips'])} of comparisons changed with it before averaging"
        )
    return found


def _revisions(figures: Mapping[str, Any]) -> list[str]:
    by = "the SFT model itself" if figures["by"] == "self" else f"judge={figures['by']}"
    unread = f", {figures['unread']:,} could not be read" if figures["unread"] else ""
    found = [
        f"revisions: {figures['prompts']:,} answers, {figures['rounds']} rounds by {by}; {_percent(figures['changed'])} of "
        f"{figures['steps']:,} steps changed the text{unread}"
    ]
    for name, measure in figures.get("measures", {}).items():
        found.append(f"{name} below 0 from the answer to the last revision: {_way(measure['violations'])}")
    return found


def _measured(figures: Mapping[str, Any]) -> list[str]:
    """Of the kind that was revised, and of the other prompts."""
    found = []
    for part, which in ((figures, "held-out prompts"), (figures.get("others", {}), "held-out prompts of other kinds")):
        for name, both in part.items():
            if isinstance(both, Mapping) and {"before", "after"} <= both.keys():
                before, after = both["before"], both["after"]
                found.append(
                    f"{name} on {part['prompts']:,} {which}, before and after training on revisions: mean "
                    f"{before['mean']:.3f} → {after['mean']:.3f}, below 0 {_way([before['violations'], after['violations']])}"
                )
    return found


def _interval(figures: Mapping[str, Any], name: str) -> str:
    """Of summaries that have one."""
    low_high = figures.get(f"{name}_ci95")
    return "" if low_high is None else f" [{low_high[0]:.3f}, {low_high[1]:.3f}]"


def _way(shares: Sequence[float]) -> str:
    return " → ".join(_percent(share) for share in shares)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
