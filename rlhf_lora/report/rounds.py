"""A run of several rounds in its report: what each of them came to, as a table and as one curve; and what a reward said of
the answers that rows were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlhf_lora.report import plots
from rlhf_lora.report.curves import figure
from rlhf_lora.report.plots import Series, number

Rounds = Sequence[Mapping[str, Any]]

HEADS = (
    "wins by gold",
    "wins by reward",
    "mean gold",
    "KL, nats",
    "learned from",
    "reward model",
    "before its refresh",
)


def section(summary: Mapping[str, Any], reference: str) -> str:
    """The table and the curve; empty of a run of one round."""
    rows: Rounds = summary.get("rounds", ())
    if not rows:
        return ""
    cells = [_cells(row) for row in rows]
    told = [i for i in range(len(HEADS)) if any(row[i] for row in cells)]
    head = "".join(f'<th class="n" scope="col">{HEADS[i]}</th>' for i in told)
    lines = "".join(_line(row["round"], [its[i] for i in told]) for row, its in zip(rows, cells, strict=True))
    text = (
        f"Each round starts from the policy of the round before; the KL is measured from {escape(reference)} in all of them. "
        "Wins by reward are by the reward of that round."
    )
    if any("new" in row.get("reward_model", {}) for row in rows):
        text += (
            " The reward model is judged on the same held-out pairs in every round; before its refresh, on the new pairs, which "
            "it had not seen."
        )
    elif any("reward_model" in row for row in rows):
        text += " The reward model of the first round serves all of them."
    return (
        f'<p class="soft">{text}</p><div class="plots">{_curve(rows)}</div>'
        f'<div class="scroll"><table><thead><tr><th scope="col">round</th>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def answers(summary: Mapping[str, Any]) -> str:
    """What the reward said of answers, and what was made of them; empty where no rows were made."""
    told = summary.get("answers")
    if not told:
        return ""
    lines = [(name.replace("_", " "), number(value)) for name, value in told.items() if isinstance(value, int | float)]
    lines += [(f"left out: {why}", number(count)) for why, count in told.get("left_out", {}).items()]
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td class="n">{value}</td></tr>' for name, value in lines)
    return f"<h3>Answers that the reward scored</h3><table><tbody>{body}</tbody></table>"


def _line(number: int, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{number}</th>' + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"


def _cells(row: Mapping[str, Any]) -> list[str]:
    """In the order of `HEADS`; what a round does not have is empty."""
    policy, gold, model = row.get("policy", {}), row.get("gold", {}), row.get("reward_model", {})
    return [
        _rate(gold), _rate(policy), _number(gold.get("score_mean")), _number(policy.get("kl_to_reference")),
        _number(row.get("answers", {}).get("rows")), _percent(model.get("accuracy")),
        _percent(model.get("new", {}).get("accuracy_before")),
    ]  # fmt: skip


def _curve(rows: Rounds) -> str:
    numbers = [float(row["round"]) for row in rows]
    told = []
    for part, title, style in (("gold", "by gold", "policy"), ("policy", "by reward", "reference")):
        rates = [row.get(part, {}).get("win_rate_vs_reference") for row in rows]
        if len(rates) > 1 and None not in rates:
            told.append(Series(title, numbers, rates, style))
    return figure("Wins against the reference", "", plots.lines(told, "round", "share of prompts")) if told else ""


def _rate(part: Mapping[str, Any]) -> str:
    rate = part.get("win_rate_vs_reference")
    if rate is None:
        return ""
    low, high = part.get("win_rate_ci95", (rate, rate))
    return f"{100 * rate:.1f} % <small>{100 * low:.0f}–{100 * high:.0f}</small>"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else number(value)
