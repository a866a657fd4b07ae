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

HEADS = ("wins by gold", "wins by reward", "mean gold", "KL, nats", "learned from", "reward model")
LABELS = (
    "compared", "labels", "ties", "unread", "the same words", "changed with the order", "in the true order", "told before",
)  # fmt: skip


def section(summary: Mapping[str, Any], reference: str) -> str:
    """The table and the curve; empty of a run of one round."""
    rows: Rounds = summary.get("rounds", ())
    if not rows:
        return ""
    text = (
        f"Each round starts from the policy of the round before; the KL is measured from {escape(reference)} in all of them. "
        "Wins by reward are by the reward of that round."
    )
    refreshed = [row for row in rows if "new" in row.get("reward_model", {})]
    if refreshed:
        text += " The reward model is judged on the same held-out pairs in every round."
    elif any("reward_model" in row for row in rows):
        text += " The reward model of the first round serves all of them."
    table = _table(HEADS, [(row["round"], _cells(row)) for row in rows])
    return f'<p class="soft">{text}</p><div class="plots">{_curve(rows)}</div>{table}{_labels(refreshed)}'


def _labels(rows: Rounds) -> str:
    """What each refresh of the reward model learned, one row a round."""
    if not rows:
        return ""
    news = [row["reward_model"]["new"] for row in rows]
    by = escape(", ".join(dict.fromkeys(str(new["by"]) for new in news if "by" in new)))
    text = (
        f"New comparisons{f' by {by}' if by else ''} before a round, of answers of the policy that it starts from. Told before: "
        "how many of the labels the reward model of the round before had told, which had not seen them."
    )
    table = _table(LABELS, [(row["round"], _label_cells(new)) for row, new in zip(rows, news, strict=True)])
    return f'<h3>What the reward model was refreshed with</h3><p class="soft">{text}</p>{table}'


def _table(heads: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> str:
    """One row a round, without the columns that are empty in all of them."""
    told = [i for i in range(len(heads)) if any(cells[i] for _, cells in rows)]
    head = "".join(f'<th class="n" scope="col">{heads[i]}</th>' for i in told)
    lines = "".join(_line(number, [cells[i] for i in told]) for number, cells in rows)
    head = f'<thead><tr><th scope="col">round</th>{head}</tr></thead>'
    return f'<div class="scroll"><table>{head}<tbody>{lines}</tbody></table></div>'


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
    ]  # fmt: skip


def _label_cells(new: Mapping[str, Any]) -> list[str]:
    """In the order of `LABELS`."""
    counts = [_number(new.get(name)) for name in ("asked", "labels", "ties", "unread", "same_words")]
    return counts + [_percent(new.get(name)) for name in ("flips", "gold_agreement", "accuracy_before")]


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
