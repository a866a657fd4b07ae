"""`check_judge`: what the contract `Judge` promises, an id for each promise.

A judge may declare, as plain class attributes: `deterministic = False` and `latency_s` (seconds a comparison may take, 0.5
unless it says so).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rlhf_lora.plain import finite_number
from rlhf_lora.records import Comparison, Prompt, Score, Verdict
from rlhf_lora.scores import awaited
from rlhf_lora.testing import samples as inputs
from rlhf_lora.testing.findings import Broken, NotLookedAt, Report, Row, short
from rlhf_lora.testing.promises import Kit, add_quiet, add_shared
from rlhf_lora.testing.rewards import LATENCY_S, TOLERANCE
from rlhf_lora.testing.subjects import Subject, Watch, built, heavy_modules, nothing, open_without_model

KIT = Kit("judge")


@dataclass
class Judge(Subject):
    """A judge under test, and its verdicts on `inputs.comparisons()`."""

    source: Any = None
    verdicts: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def compare(self, prompt: Prompt, a: str, b: str) -> Any:
        return self.ask(lambda: awaited(self.source.compare(copy.deepcopy(prompt), a, b)), sample=shown(prompt, a, b))


def check_judge(
    thing: Any,
    raises: bool = True,
    *,
    heavy_before: frozenset[str] | None = None,
    watch: Watch = nothing,
    on_row: Callable[[Row], None] = nothing,
) -> Report:
    """Hold a judge to its contract; arguments as of `check_reward`.

    Raises:
        ContractError: a promise is broken. PluginError: `thing` is no judge.
    """
    before = heavy_modules() if heavy_before is None else heavy_before
    return KIT.report(Judge("judge", *built("judge", thing), before, watch, on_row), raises)


def shown(prompt: Prompt, a: str, b: str) -> str:
    return f"{short(prompt.text, 40)}: {short(a, 40)} or {short(b, 40)}"


add_shared(KIT)


@KIT.promise("opens", "it opens without a model")
def _opens(subject: Judge) -> str:
    subject.source = subject.ask(open_without_model, subject.plugin)
    return "opened" if subject.source is not subject.plugin else "it is its own"


@KIT.promise("runs", "two answers are compared", needs=("opens",))
def _runs(subject: Judge) -> str:
    for comparison in inputs.comparisons():
        began = time.perf_counter()
        subject.verdicts.append(subject.compare(*comparison))
        subject.seconds.append(time.perf_counter() - began)
    return f"{len(subject.verdicts)} comparisons"


@KIT.promise("type", "it gives a Verdict", needs=("runs",))
def _type(subject: Judge) -> str:
    for comparison, verdict in zip(inputs.comparisons(), subject.verdicts, strict=True):
        if not isinstance(verdict, Verdict):
            given = f"{short(verdict)}, a {type(verdict).__name__}"
            fix = "return Verdict('A'), Verdict('B'), Verdict('tie'), or Verdict(None, reason=…) where it cannot say"
            raise Broken(given, "a Verdict", fix, shown(*comparison), short(verdict))
    return "all are"


@KIT.promise("choice", "a verdict is A, B, tie or none", needs=("type",))
def _choice(subject: Judge) -> str:
    for comparison, verdict in zip(inputs.comparisons(), subject.verdicts, strict=True):
        if verdict.choice not in ("A", "B", "tie", None):
            fix = "say 'A', 'B', 'tie', or None where the answer could not be read"
            raise Broken(
                short(verdict.choice), "'A', 'B', 'tie' or None", fix, shown(*comparison), short(verdict.choice)
            )
    counts = {name: sum(v.choice == name for v in subject.verdicts) for name in ("A", "B", "tie", None)}
    return ", ".join(f"{count} {name or 'none'}" for name, count in counts.items() if count)


@KIT.promise("probability", "a probability is in [0, 1] and agrees with the choice", needs=("choice",))
def _probability(subject: Judge) -> str:
    given = 0
    for comparison, verdict in zip(inputs.comparisons(), subject.verdicts, strict=True):
        if verdict.probability_a is None:
            continue
        given += 1
        p = finite_number(verdict.probability_a)
        if p is None or not 0 <= p <= 1:
            value = short(verdict.probability_a)
            raise Broken(value, "P(A is better) in [0, 1]", "give a probability, or None", shown(*comparison), value)
        if (verdict.choice == "A" and p < 0.5) or (verdict.choice == "B" and p > 0.5):
            value = f"choice {verdict.choice} with P(A) = {p:g}"
            raise Broken(
                value, "the likelier answer", "let the choice follow the probability", shown(*comparison), value
            )
    if not given:
        raise NotLookedAt("it gives none")
    return f"{given} of {len(subject.verdicts)} verdicts have one"


@KIT.promise("values", "some comparison gets a verdict", needs=("choice",))
def _values(subject: Judge) -> str:
    read = [verdict for verdict in subject.verdicts if verdict.choice is not None]
    if not read:
        given = f"none for any of {len(subject.verdicts)} comparisons: {short(subject.verdicts[0].reason)}"
        raise Broken(given, "a verdict for one of them at least", "read what the judge answers", value="None")
    return f"{len(read)} of {len(subject.verdicts)}"


@KIT.promise("twice", "the same comparison gets the same verdict again", needs=("choice",))
def _twice(subject: Judge) -> str:
    if not getattr(subject.plugin, "deterministic", True):
        raise NotLookedAt("it declares deterministic = False")
    for comparison, before in zip(inputs.comparisons(), subject.verdicts, strict=True):
        again = subject.compare(*comparison)
        p, q = before.probability_a, again.probability_a
        if again.choice != before.choice or (p is None) != (q is None) or abs((p or 0) - (q or 0)) > TOLERANCE:
            given = f"{before.choice} ({p}) and {again.choice} ({q})"
            fix = "seed what is random, or say deterministic = False"
            raise Broken(given, "the same verdict twice", fix, shown(*comparison), given)
    return "equal"


@KIT.promise("many", "many are compared at once as they are one by one, in order", needs=("choice",))
def _many(subject: Judge) -> str:
    compare_all = getattr(subject.source, "compare_all", None)
    if not callable(compare_all):
        raise NotLookedAt("it has no compare_all")
    given = [Comparison(*one) for one in inputs.comparisons()]
    asked = [*given, *(one.swapped for one in given)]  # what a mixed-up order would show
    told = _one_each(subject.ask(lambda: awaited(compare_all(asked))), len(asked), Verdict)
    if getattr(subject.plugin, "deterministic", True):
        for comparison, verdict in zip(asked, told, strict=True):
            alone = subject.compare(comparison.prompt, comparison.a, comparison.b)
            p, q = verdict.probability_a, alone.probability_a
            if verdict.choice != alone.choice or (p is None) != (q is None) or abs((p or 0) - (q or 0)) > TOLERANCE:
                where = shown(comparison.prompt, comparison.a, comparison.b)
                said = f"{verdict.choice} ({p}) among others and {alone.choice} ({q}) alone"
                raise Broken(said, "the same verdict", "give verdicts in the order of the comparisons", where, said)
    if subject.ask(lambda: awaited(compare_all([]))):
        raise Broken(
            "verdicts for no comparison", "an empty list", "give one verdict for each", value="compare_all([])"
        )
    return f"{len(told)} at once"


@KIT.promise("ratings", "rate_all gives one Score each, in order", needs=("runs",))
def _ratings(subject: Judge) -> str:
    rate_all = getattr(subject.source, "rate_all", None)
    if not callable(rate_all):
        raise NotLookedAt("it has no rate_all")
    given = [(prompt, a) for prompt, a, _ in inputs.comparisons()]
    told = _one_each(subject.ask(lambda: awaited(rate_all(given))), len(given), Score)
    if getattr(subject.plugin, "deterministic", True):
        again = _one_each(subject.ask(lambda: awaited(rate_all(given[::-1]))), len(given), Score)[::-1]
        for (prompt, text), one, other in zip(given, told, again, strict=True):
            if one.kind != other.kind or abs((one.value or 0) - (other.value or 0)) > TOLERANCE:
                where, said = f"{short(prompt.text, 40)}: {short(text, 40)}", f"{one.value} and {other.value}"
                raise Broken(said, "the same rating", "give ratings in the order of the answers", where, said)
    return f"{sum(one.kind == 'value' for one in told)} of {len(told)} answers rated"


def _one_each(told: Any, count: int, kind: type) -> list[Any]:
    """Of what a judge gave for many at once.

    Raises:
        Broken: not `count` of `kind`.
    """
    if not isinstance(told, list | tuple) or len(told) != count or not all(isinstance(one, kind) for one in told):
        number = len(told) if hasattr(told, "__len__") else short(told)
        fix = f"return a list with one {kind.__name__} for each, in order"
        raise Broken(f"{number} for {count}", f"a list of {count} {kind.__name__}s", fix, value=short(told))
    return list(told)


def _odd(id: str, title: str, a: str) -> None:
    @KIT.promise(id, title, needs=("choice",))
    def look(subject: Judge) -> str:
        prompt = inputs.comparisons()[0][0]
        verdict = subject.compare(prompt, a, "no")
        if not isinstance(verdict, Verdict) or verdict.choice not in ("A", "B", "tie", None):
            given = short(verdict)
            raise Broken(
                given, "a Verdict", "say Verdict(None, reason=…) where it cannot tell", shown(prompt, a, "no"), given
            )
        return str(verdict.choice or "none")


_odd("empty_text", "an empty answer is compared", "")
_odd("unicode", "an answer in any script is compared", inputs.UNICODE)
_odd("long_text", f"an answer of {inputs.LONG:,} characters is compared", ("word " * inputs.LONG)[: inputs.LONG])


@KIT.promise("latency", "a comparison does not take long", needs=("runs",))
def _latency(subject: Judge) -> str:
    limit, ordered = float(getattr(subject.plugin, "latency_s", LATENCY_S)), sorted(subject.seconds)
    figure = f"p50 {ordered[len(ordered) // 2]:.3g} s, p95 {ordered[int(0.95 * len(ordered))]:.3g} s"
    if ordered[len(ordered) // 2] > limit:
        fix = "make it faster, or say how long it may take: latency_s = SECONDS"
        raise Broken(figure, f"p50 of at most {limit:g} s", fix, value=figure)
    return figure


add_quiet(KIT, needs=("runs",))
