"""`replay-REWARD.html`: what a run's answers scored then and what another reward says of them, update by update."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlhf_lora.atomic import write_text
from rlhf_lora.report import curves, plots
from rlhf_lora.report.document import document, table
from rlhf_lora.report.plots import Series, number

LONGEST = 600
"""Characters of a text that are shown."""


def write(path: Path, run: str, old: str, new: str, found: Any, count: int) -> None:
    """Write the page.

    Args:
        run: name of the run. old, new: names of the rewards.
        found: with `stored`, `scores`, `by_update`, `correlation`, `rank_correlation`, `held_out` and `apart`.
        count: how many of the answers that they rank most differently are shown.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(run, old, new, found, count))


def render(run: str, old: str, new: str, found: Any, count: int) -> str:
    """The page as text. What there is not is left out with a sentence, never drawn as zero."""
    missing = sum(score.value is None for score in found.scores)
    agree = "Their agreement is not defined: one of them never changes, or too few answers have both."
    if found.correlation is not None and found.rank_correlation is not None:
        agree = f"Correlation {number(found.correlation)}, of ranks {number(found.rank_correlation)}."
    lede = (
        f'<p class="lede">{len(found.scores):,} stored answers, scored by <b>{escape(new)}</b> where the run was trained with '
        f"<b>{escape(old)}</b>. {agree}</p>"
        f'<p class="soft">{missing:,} without a new score. No model was loaded: the answers are those that the run kept.</p>'
    )
    sections = [
        ("Over the run", _curves(old, new, found)),
        ("Answer by answer", _scatter(old, new, found)),
        ("Held-out prompts", _held_out(old, new, found)),
        ("Where they disagree most", _apart(old, new, found, count)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{html}</section>" for title, html in sections)
    return document(
        f"{run}: {new} against {old}", "finished", lede, f"{body}<footer><p>Means of raw scores.</p></footer>"
    )


def _curves(old: str, new: str, found: Any) -> str:
    figures = [_line(old, [(u, m["old"]) for u, m in found.by_update.items()], "reference"),
               _line(new, [(u, m["new"]) for u, m in found.by_update.items()], "policy")]  # fmt: skip
    names = dict.fromkeys(name for means in found.by_update.values() for name in means["parts"])
    for name in names:
        points = [(u, m["parts"].get(name)) for u, m in found.by_update.items()]
        figures.append(_line(f"{new}: {name}", points, "policy"))
    return (
        f'<div class="plots">{"".join(figures)}</div>' if any(figures) else _absent("No samples of updates are kept.")
    )


def _line(title: str, points: Sequence[tuple[int, float | None]], tone: str) -> str:
    given = [(update, value) for update, value in points if value is not None]
    if len(given) < 2:
        said = f"{title}: {number(given[0][1])} at update {given[0][0]}" if given else f"{title}: no score at all"
        return _absent(escape(said))
    one = Series(title, [update for update, _ in given], [value for _, value in given], tone)
    note = f"{number(given[0][1])} → {number(given[-1][1])}"
    return curves.figure(title, note, plots.lines([one], "update", "mean score"))


def _scatter(old: str, new: str, found: Any) -> str:
    """Each answer's old score against its new one."""
    both = [(one.score, score.value) for one, score in zip(found.stored, found.scores, strict=True)
            if one.score is not None and score.value is not None]  # fmt: skip
    if len(both) < 2:
        return _absent("Fewer than two answers have both scores.")
    step = max(1, len(both) // 800)
    both = both[::step]
    x = plots.Scale(*plots.extent([a for a, _ in both]), plots.LEFT, plots.WIDTH - plots.RIGHT)
    y = plots.Scale(*plots.extent([b for _, b in both]), plots.HEIGHT - plots.BOTTOM, plots.TOP)
    parts = plots.axes(x, y, old, new)
    parts += [f'<circle class="dot policy" cx="{x(a)}" cy="{y(b)}" r="2" opacity="0.45"/>' for a, b in both]
    note = f"one dot for {f'each of {len(both):,} answers' if step == 1 else f'every {step} answers'}"
    return (
        f'<div class="plots">{curves.figure("Old against new", note, plots.svg(parts, f"{new} against {old}"))}</div>'
    )


def _held_out(old: str, new: str, found: Any) -> str:
    if not found.held_out:
        return _absent("The run has no evaluation after training.")
    lines = [[who, _figure(means["old"]), _figure(means["new"])] for who, means in found.held_out.items()]
    return table(("", old, new), lines)


def _apart(old: str, new: str, found: Any, count: int) -> str:
    if not found.apart:
        return _absent("No answer has both scores.")
    lines = []
    for i in found.apart[:count]:
        one, score = found.stored[i], found.scores[i]
        parts = ", ".join(f"{name} {number(value)}" for name, value in score.parts.items())
        when = "held-out" if one.update is None else str(one.update)
        lines.append([when, _text(one.sample.prompt), _text(one.sample.text), _figure(one.score), _figure(score.value),
                      parts, _text(score.reason)])  # fmt: skip
    how = "<p>By how far apart the two rewards rank them among all.</p>"
    heads = ("update", "prompt", "answer", old, new, "parts", "why")
    # many rewards say no more than a number
    told = [k for k, head in enumerate(heads) if head not in ("parts", "why") or any(line[k] for line in lines)]
    return how + table(tuple(heads[k] for k in told), [[line[k] for k in told] for line in lines])


def _figure(value: float | None) -> str:
    return "–" if value is None else number(value)


def _text(text: str) -> str:
    """Control characters, which no page may hold, become visible; `table` escapes the rest."""
    shown = "".join(c if c == "\n" or c.isprintable() else "\ufffd" for c in text[:LONGEST])
    return shown + (" …" if len(text) > LONGEST else "")


def _absent(sentence: str) -> str:
    return f'<p class="soft">{sentence}</p>'
