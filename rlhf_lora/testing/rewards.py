"""`check_reward`: what the contract `RewardSource` promises, an id for each promise.

A reward may declare, as plain class attributes: `deterministic = False` (the same sample may score differently twice),
`score_range = (low, high)` and `latency_s` (seconds a sample may take, 0.5 unless it says so).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_lora.records import Sample, Score
from rlhf_lora.scores import columns_of, given_by
from rlhf_lora.testing import samples as inputs
from rlhf_lora.testing.findings import Broken, NotLookedAt, Report, Row, short
from rlhf_lora.testing.promises import Kit, add_quiet, add_shared
from rlhf_lora.testing.samples import shown
from rlhf_lora.testing.subjects import Subject, Watch, built, heavy_modules, nothing, open_without_model

KIT = Kit("reward")
LATENCY_S = 0.5
TOLERANCE = 1e-6
"""Of two scores that ought to be equal, in units of the larger one where that is above 1."""


@dataclass
class Reward(Subject):
    """A reward under test.

    Attributes:
        samples: what it is asked to score. given: whether these are somebody's own rows and not the kit's.
        seconds: how long each call for a single sample took.
    """

    samples: list[Sample] = field(default_factory=list)
    given: bool = False
    source: Any = None
    together: list[Any] = field(default_factory=list)
    singles: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def deterministic(self) -> bool:
        return bool(getattr(self.plugin, "deterministic", True))

    def score(self, samples: Sequence[Sample], about: str) -> list[Any]:
        """What the plugin gives for copies of these samples, one raw value each.

        Raises:
            Broken: it raised, or gave something that is no list of so many.
        """
        asked = copy.deepcopy(list(samples))
        values = {name: [sample.columns[name] for sample in asked] for name in columns_of(self.source)}
        got = self.ask(given_by, self.source, asked, values, sample=about)
        if isinstance(got, str | bytes | dict | set | frozenset) or not hasattr(got, "__len__"):
            raise Broken(
                f"{short(got)}, a {type(got).__name__}", f"a list of {_many(len(samples), 'score')}",
                "return a list with one score for each sample", about, short(got),
            )  # fmt: skip
        if len(got) != len(samples):
            raise Broken(
                _many(len(got), "score"), f"{len(samples)}: one for each sample",
                "return one score for each sample, None where there is none", about, short(list(got)),
            )  # fmt: skip
        return list(got)


def check_reward(
    thing: Any,
    raises: bool = True,
    *,
    samples: Sequence[Sample] | None = None,
    heavy_before: frozenset[str] | None = None,
    watch: Watch = nothing,
    on_row: Callable[[Row], None] = nothing,
) -> Report:
    """Hold a reward to its contract.

    Args:
        thing: the plugin object, its class, the decorated function, or its name.
        raises: raise when a promise is broken; False returns the report all the same.
        samples: rows of your own, with the columns that the reward asks for; default: the kit's eight.
        heavy_before: heavy packages that were loaded before the plugin was; default: those that are now.
        watch, on_row: told of every input before it is given, and of every row.

    Raises:
        ContractError: a promise is broken. PluginError: `thing` is no reward.
    """
    before = heavy_modules() if heavy_before is None else heavy_before
    name, plugin = built("reward", thing)
    own = copy.deepcopy(list(samples)) if samples else inputs.ordinary()
    subject = Reward("reward", name, plugin, before, watch, on_row, samples=own, given=bool(samples))
    return KIT.report(subject, raises)


# --- the promises -----------------------------------------------------------------------------------------------------

add_shared(KIT)


@KIT.promise("opens", "it opens without a model")
def _opens(subject: Reward) -> str:
    subject.source = subject.ask(open_without_model, subject.plugin)
    return "opened" if subject.source is not subject.plugin else "it is its own"


@KIT.promise("columns", "the columns that it asks for are in the rows", needs=("opens",))
def _columns(subject: Reward) -> str:
    wanted = columns_of(subject.source)
    for at, sample in enumerate(subject.samples):
        missing = [name for name in wanted if name not in sample.columns]
        if missing:
            have = ", ".join(sorted(sample.columns)) or "none"
            raise Broken(
                f"rows with the columns: {have}", f"the column '{missing[0]}', a keyword without a default",
                "give rows that have it, or the keyword a default"
                if subject.given
                else "give rows that have it (plugins check … --data FILE, or samples=…), or the keyword a default",
                shown(sample, at), missing[0],
            )  # fmt: skip
    return ", ".join(wanted) or "it asks for none"


@KIT.promise("runs", "each sample alone is scored", needs=("columns",))
def _runs(subject: Reward) -> str:
    for at, sample in enumerate(subject.samples):
        began = time.perf_counter()
        subject.singles += subject.score([sample], shown(sample, at))
        subject.seconds.append(time.perf_counter() - began)
    return f"{len(subject.singles)} samples"


@KIT.promise("latency", "a sample does not take long", needs=("runs",))
def _latency(subject: Reward) -> str:
    limit = float(getattr(subject.plugin, "latency_s", LATENCY_S))
    ordered = sorted(subject.seconds)
    p50, p95 = ordered[(len(ordered) - 1) // 2], ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    figure = f"p50 {_time(p50)}, p95 {_time(p95)}"
    if p50 > limit:
        slowest = max(range(len(ordered)), key=subject.seconds.__getitem__)
        fix = "make it faster, or say how long it may take: latency_s = SECONDS"
        raise Broken(
            figure, f"p50 of at most {_time(limit)} a sample", fix, shown(subject.samples[slowest], slowest), figure
        )
    return f"{figure} a sample"


@KIT.promise("count", "a batch gets one score for each sample", needs=("latency",))
def _count(subject: Reward) -> str:
    subject.together = subject.score(subject.samples, f"a batch of {len(subject.samples)} samples")
    return f"{len(subject.together)} scores for {len(subject.samples)} samples"


@KIT.promise("type", "a score is a number, a Score, or None", needs=("count",))
def _type(subject: Reward) -> str:
    for at, value in _all(subject):
        if _raw(value) is _WRONG:
            raise Broken(
                f"{short(value)}, a {type(value).__name__}", "a number, a Score, or None", "convert it: float(value)",
                shown(subject.samples[at], at), short(value),
            )  # fmt: skip
    return ", ".join(sorted({type(value).__name__ for value in subject.together}))


@KIT.promise("finite", "a score is finite, or none with a reason", needs=("type",))
def _finite(subject: Reward) -> str:
    for at, value in _all(subject):
        number = _raw(value)
        if number is not None and not math.isfinite(number):
            raise Broken(
                str(number), "a finite number", "return None, or Score.none(reason), where there is no score",
                shown(subject.samples[at], at), str(number),
            )  # fmt: skip
    return "all finite"


@KIT.promise("values", "some sample gets a value", needs=("finite",))
def _values(subject: Reward) -> str:
    numbers = [number for value in subject.together if (number := _raw(value)) is not None]
    if not numbers:
        first = subject.together[0]
        why = first.reason if isinstance(first, Score) else ""
        raise Broken(
            f"no value for any of {len(subject.together)} samples{f' ({short(why)})' if why else ''}",
            "a value for one of them at least",
            "return the score (did a `return` go missing?); if your own rows are needed, give them",
            shown(subject.samples[0], 0), short(first),
        )  # fmt: skip
    none = len(subject.together) - len(numbers)
    return f"{min(numbers):.4g} to {max(numbers):.4g}{f', {none} without' if none else ''}"


@KIT.promise("range", "scores are in the range that it declares", needs=("values",))
def _range(subject: Reward) -> str:
    declared = getattr(subject.plugin, "score_range", None)
    if declared is None:
        raise NotLookedAt("it declares none (score_range = (low, high))")
    low, high = declared
    for at, value in _all(subject):
        number = _raw(value)
        if number is not None and not low <= number <= high:
            raise Broken(
                f"{number:g}", f"from {low} to {high}, as score_range says", "mend the score or the declaration",
                shown(subject.samples[at], at), f"{number:g}",
            )  # fmt: skip
    return f"within {low} to {high}"


@KIT.promise("twice", "the same samples get the same scores again", needs=("finite",))
def _twice(subject: Reward) -> str:
    if not subject.deterministic:
        raise NotLookedAt("it declares deterministic = False")
    again = subject.score(subject.samples, f"the same {len(subject.samples)} samples once more")
    _same(subject, subject.together, again, "the same score twice", "seed what is random, or say deterministic = False")
    return "equal"


@KIT.promise("order", "samples in another order get their scores in that order", needs=("twice",))
def _order(subject: Reward) -> str:
    places = list(range(len(subject.samples)))[::-1]
    places = places[1::2] + places[::2]
    got = subject.score([subject.samples[i] for i in places], "the samples in another order")
    back = [got[places.index(i)] for i in range(len(places))]
    fix = "return scores in the order of the samples: neither sort nor group them"
    _same(subject, subject.together, back, "the score that the sample had before", fix)
    return "equal"


@KIT.promise("alone", "a score does not hang on what else is in the batch", needs=("order",))
def _alone(subject: Reward) -> str:
    fix = "score each sample by itself: the optimizer normalises batches"
    _same(subject, subject.singles, subject.together, "the score that the sample had alone", fix)
    return "equal"


@KIT.promise("inputs", "samples and columns are left as they were", needs=("latency",))
def _inputs(subject: Reward) -> str:
    asked = copy.deepcopy(subject.samples)
    values = {name: [sample.columns[name] for sample in asked] for name in columns_of(subject.source)}
    subject.ask(given_by, subject.source, asked, values, sample=f"a batch of {len(asked)} samples")
    for at, (now, before) in enumerate(zip(asked, subject.samples, strict=False)):
        changed = [name for name in before.__slots__ if getattr(now, name) != getattr(before, name)]
        if changed:
            value = short(getattr(now, changed[0]))
            raise Broken(
                f"{changed[0]} changed to {value}", "inputs as they were", "work on a copy", shown(before, at), value
            )
    if len(asked) != len(subject.samples):
        raise Broken(f"{len(asked)} samples are left", str(len(subject.samples)), "leave the list of samples alone")
    return "unchanged"


@KIT.promise("empty_list", "no samples get no scores", needs=("runs",))
def _empty_list(subject: Reward) -> str:
    subject.score([], "an empty list")
    return "an empty list"


def _odd(id: str, title: str) -> None:
    """A promise that one odd sample is scored, or gets none with a reason."""

    @KIT.promise(id, title, needs=("finite",))
    def look(subject: Reward) -> str:
        sample = inputs.odd(subject.samples)[id]
        about = f"an answer of {inputs.LONG:,} characters" if id == "long_text" else shown(sample)
        (value,) = subject.score([sample], about)
        number = _raw(value)
        if number is _WRONG or (number is not None and not math.isfinite(number)):
            fix = "return None, or Score.none(reason), where there is no score"
            raise Broken(short(value), "a finite number, a Score, or None", fix, about, short(value))
        return "no value" if number is None else f"{number:.4g}"


_odd("empty_text", "an empty answer is scored")
_odd("unicode", "an answer in any script is scored")
_odd("long_text", f"an answer of {inputs.LONG:,} characters is scored")
_odd("cut_off", "an answer that was cut off is scored")


add_quiet(KIT, needs=("runs",))


# --- values -----------------------------------------------------------------------------------------------------------

_WRONG: Any = object()


def _raw(value: Any) -> Any:
    """The number of a score, None where it has none, `_WRONG` for what is no score."""
    if value is None:
        return None
    if isinstance(value, Score):
        return value.value
    if isinstance(value, str | bytes | complex) or not hasattr(value, "__float__"):
        return _WRONG
    try:
        return float(value)
    except Exception:
        return _WRONG


def _all(subject: Reward) -> list[tuple[int, Any]]:
    """(sample, score) of both ways of asking."""
    return [*enumerate(subject.together), *enumerate(subject.singles)]


def _same(subject: Reward, one: Sequence[Any], other: Sequence[Any], wanted: str, fix: str) -> None:
    for at, (a, b) in enumerate(zip((_raw(v) for v in one), (_raw(v) for v in other), strict=True)):
        if a == b or (a is not None and b is not None and abs(a - b) <= TOLERANCE * max(1.0, abs(a))):
            continue
        given = " and ".join("none" if value is None else f"{value:.9g}" for value in (a, b))
        raise Broken(given, wanted, fix, shown(subject.samples[at], at), given)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.0f} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )
