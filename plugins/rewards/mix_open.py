"""A mix at work: every part asked, brought to its unit, combined; what a part does not know is said, never called 0."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora import registry
from rlhf_lora.atomic import write_text
from rlhf_lora.errors import ContractError, DataError, Interrupted, Stopped
from rlhf_lora.records import Missing, Sample, Score
from rlhf_lora.scores import check_scores, columns_of

from .mix_combine import logit, product, safety_decides, sigmoid, weighted_sum, whitened

if TYPE_CHECKING:
    from .mix import Mix

Scores = Callable[[Sequence[Sample]], list[Score]]
KINDS: tuple[Missing, ...] = ("error", "unreadable", "abstain")
"""Of several missing parts the first kind of these is the mix's: a failure is no mere abstention."""
SMALLEST_DEVIATION = 1e-8
"""A part that varies less on samples of the reference is only shifted: its rounding is not to be blown up to 1."""
KEPT = "reward_scale.json"


class OpenMix:
    """The parts opened.

    Args:
        run_dir: where the numbers that `calibrate` measures are kept, so that a finished run is judged as it was trained.
        whiten: whether a gate whitens; a judge does not (`as_judge`).
    """

    def __init__(self, mix: Mix, opened: Mapping[str, Any], run_dir: Path | None, whiten: bool = True):
        self.mix, self.opened, self.run_dir = mix, dict(opened), run_dir
        self.needs_whole_batch = whiten and mix.combine == "gate" and mix.gate.whiten
        """A score depends on the others it is asked for with: samples of one batch must be scored together."""
        own = (mix.gate.column,) if mix.gate.column is not None else ()
        self.columns = tuple(dict.fromkeys([*(c for part in self.opened.values() for c in columns_of(part)), *own]))
        self._scales: dict[str, tuple[float, float]] = {}
        self._ask: dict[str, Scores] = {}
        self.score_with(_Scorer)
        self._read_kept()

    def score_with(self, scorer: Callable[[Any, str], Scores]) -> None:
        """Have the parts asked by `scorer(reward, name)(samples)`, so that they are held to what a run holds a reward to."""
        for name, part in self.opened.items():
            self._ask[name] = scorer(part, registry.to_config(self.mix.rewards[name])["name"])
            if isinstance(part, OpenMix):
                part.score_with(scorer)

    def as_judge(self) -> OpenMix:
        """The same parts and numbers without whitening: to compare answers over batches, and one day with the next."""
        judge = OpenMix(self.mix, self.opened, None, whiten=False)
        judge._scales, judge._ask = self._scales, self._ask
        return judge

    def close(self) -> None:
        for part in self.opened.values():
            if callable(close := getattr(part, "close", None)):
                close()

    # --- scoring ------------------------------------------------------------------------------------------------------

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> list[Score]:
        """One score per sample.

        `Score.parts`: `NAME` as the part gave it, `NAME/weighted` what it adds to a sum or multiplies a product by,
        `NAME/OTHER` for what a part has for parts itself, `shadow/NAME` for those that are only watched; of a gate
        `gate/safety` (1 where the safety part decided) and `gate/logit` (before whitening).

        Raises:
            ContractError: a part that counts raised, or gave no list of scores.
        """
        if not samples:
            return []
        samples = _with_columns(samples, columns)
        given = {name: self._asked(name, samples) for name in self.opened}
        scores = [self._combined(sample, {n: s[i] for n, s in given.items()}) for i, sample in enumerate(samples)]
        return _whitened(scores) if self.needs_whole_batch else scores

    def _asked(self, name: str, samples: Sequence[Sample]) -> list[Score]:
        try:
            return self._ask[name](samples)
        except (Interrupted, Stopped):
            raise
        except Exception as error:
            if name in self.mix.shadow:  # it is only watched: what is trained on goes on without it
                return [Score.none(str(error), kind="error")] * len(samples)
            raise ContractError(f"part '{name}': {error}") from error

    def _combined(self, sample: Sample, given: Mapping[str, Score]) -> Score:
        """The score of one sample, not yet whitened."""
        mix = self.mix
        parts, notes = _reported(given, mix.shadow), _notes(given, mix.shadow)
        missing = [given[name] for name in mix.counted if given[name].value is None]
        present = {
            name: score.value for name, score in given.items() if name in mix.counted and score.value is not None
        }
        if missing and not (mix.missing_part == "skip" and present):
            kind = next(kind for kind in KINDS if any(score.kind == kind for score in missing))
            return Score(None, parts, notes, kind)
        try:
            value, more = self._value(sample, {name: self._adjusted(name, x) for name, x in present.items()})
        except (ValueError, OverflowError) as error:
            return Score(None, parts, "; ".join(filter(None, [str(error), notes])), "error")
        return Score(value, parts | more, notes)

    def _value(self, sample: Sample, values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """The combination, and what there is to report of it. Raises ValueError, with the reason, where there is none."""
        mix, weights = self.mix, self.mix.all_weights
        if mix.combine == "gate":
            return self._through_gate(sample, values)
        if mix.combine == "product":
            value, each = product(values, weights), {name: x ** weights[name] for name, x in values.items()}
        else:
            value, each = weighted_sum(values, weights), {name: x * weights[name] for name, x in values.items()}
        if not all(map(math.isfinite, (value, *each.values()))):
            raise ValueError(f"the {mix.combine} of the parts is not finite")
        return value, {f"{name}/weighted": x for name, x in each.items()}

    def _through_gate(self, sample: Sample, values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """sigmoid → gate → logit, in this order; whitening comes over the batch."""
        gate = self.mix.gate
        assert gate.safety is not None and gate.helpful is not None
        probability = {name: _probability(name, values[name], gate.values) for name in (gate.safety, gate.helpful)}
        is_safety = gate.column is not None and _is_true(sample.columns[gate.column], gate.column)
        decides = safety_decides(probability[gate.safety], is_safety, gate.threshold)
        value = logit(probability[gate.safety if decides else gate.helpful])
        return value, {"gate/safety": float(decides), "gate/logit": value}

    # --- units --------------------------------------------------------------------------------------------------------

    def _adjusted(self, name: str, value: float) -> float:
        """Clipped in the part's own unit, then normalised."""
        value = _clipped(value, self.mix.clips.get(name))
        if name not in self.mix.normalised:
            return value
        if name not in self._scales:
            raise ValueError(f"part '{name}': not yet measured on samples of the reference (calibrate)")
        mean, deviation = self._scales[name]
        return (value - mean) / deviation

    @property
    def needs_calibration(self) -> bool:
        """Whether a part is to be normalised on samples of the reference, and has not been."""
        inner = any(part.needs_calibration for part in self.opened.values() if isinstance(part, OpenMix))
        return inner or not set(self.mix.normalised) <= self._scales.keys()

    def calibrate(self, samples: Sequence[Sample]) -> None:
        """Measure on samples of the reference, so that each part under `normalise` has mean 0 and deviation 1 on them.

        r' = (r − μ) / σ with the population's σ (Ziegler et al. 2019, whose g and b are 1/σ and −μ/σ); of a part that is
        constant there, σ is 1. Nothing else of the mix changes.

        Raises:
            Stopped: a part gave no value for any of the samples.
        """
        for part in self.opened.values():
            if isinstance(part, OpenMix):
                part.calibrate(samples)
        for name in self.mix.normalised:
            clip = self.mix.clips.get(name)
            scores = self._asked(name, samples)
            values = [_clipped(score.value, clip) for score in scores if score.value is not None]
            if not values:
                why = next((f": {score.reason}" for score in scores), "")
                raise Stopped(f"part '{name}' gave no value for any sample of the reference to be normalised on{why}")
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
            self._scales[name] = (mean, deviation if deviation > SMALLEST_DEVIATION else 1.0)
        if self.run_dir is not None and (state := self.state()):
            kept = {"of": self._settings(), "scale": state}
            write_text(self.run_dir / KEPT, json.dumps(kept, indent=1, allow_nan=False) + "\n")

    def state(self) -> dict[str, list[float]]:
        """Part (`a`, of a mix within the mix `a/b`) → mean and deviation: all that changes after opening."""
        found = {name: [mean, deviation] for name, (mean, deviation) in self._scales.items()}
        for name, part in self.opened.items():
            if isinstance(part, OpenMix):
                found |= {f"{name}/{inner}": pair for inner, pair in part.state().items()}
        return found

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on with the numbers of `state()`."""
        self._scales = {name: (float(m), float(d)) for name, (m, d) in state.items() if "/" not in name}
        for name, part in self.opened.items():
            if isinstance(part, OpenMix):
                own = f"{name}/"
                part.restore({key.removeprefix(own): pair for key, pair in state.items() if key.startswith(own)})

    def _read_kept(self) -> None:
        """Take up what this run measured before; of another mix, nothing."""
        file = None if self.run_dir is None else self.run_dir / KEPT
        if file is None or not file.is_file():
            return
        try:
            kept = json.loads(file.read_text("utf-8"))
            if kept["of"] == self._settings():
                self.restore(kept["scale"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"the scale of the reward cannot be read: {error!r}",
                where=str(file),
                fix="remove it; the run measures anew",
            ) from error

    def _settings(self) -> Any:
        """What the numbers belong to, wherever the run folder lies."""
        text = json.dumps([registry.to_config(self.mix)[name] for name in ("parts", "clip", "normalise", "shadow")])
        return json.loads(text.replace(json.dumps(str(self.run_dir))[1:-1], "RUN"))


class _Scorer:
    """A part asked outside of a run: the contract held, nothing more."""

    def __init__(self, source: Any, name: str):
        self.source, self.name = source, name

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        values: dict[str, list[Any]] = {}
        for column in columns_of(self.source):
            if any(column not in sample.columns for sample in samples):
                raise DataError(f"the reward '{self.name}' wants the column '{column}', which the data does not have")
            values[column] = [sample.columns[column] for sample in samples]
        try:
            given = self.source.score(list(samples), **values)
        except ContractError:
            raise
        except Exception as error:
            raise ContractError(f"the reward '{self.name}' raised {type(error).__name__}: {error}") from error
        return check_scores(given, len(samples), self.name)


def _with_columns(samples: Sequence[Sample], columns: Mapping[str, Sequence[Any]]) -> list[Sample]:
    """Samples that carry the columns which were handed over beside them."""
    if not columns:
        return list(samples)
    return [replace(s, columns={**s.columns, **{n: v[i] for n, v in columns.items()}}) for i, s in enumerate(samples)]


def _reported(given: Mapping[str, Score], shadow: Sequence[str]) -> dict[str, float]:
    """The parts that have a value, as they gave it, and what they have for parts themselves."""
    found: dict[str, float] = {}
    for name, score in given.items():
        place = f"shadow/{name}" if name in shadow else name
        found |= {f"{place}/{inner}": value for inner, value in score.parts.items()}
        if score.value is not None:
            found[place] = score.value
    return found


def _notes(given: Mapping[str, Score], shadow: Sequence[str]) -> str:
    """What the parts say of themselves, and which of them have no value."""
    lines = []
    for name, score in given.items():
        no_value = "" if score.value is not None else f"no value ({score.kind})"
        said = ", ".join(filter(None, [no_value, score.reason]))
        if said:
            lines.append(f"{'shadow' if name in shadow else 'part'} '{name}': {said}")
    return "; ".join(lines)


def _whitened(scores: Sequence[Score]) -> list[Score]:
    """Over the scores that have a value; the others stay as they are."""
    having = [i for i, score in enumerate(scores) if score.value is not None]
    found = list(scores)
    for i, value in zip(having, whitened([float(scores[i].value or 0.0) for i in having]), strict=True):
        found[i] = replace(scores[i], value=value)
    return found


def _clipped(value: float, clip: tuple[float, float] | None) -> float:
    return value if clip is None else min(max(value, clip[0]), clip[1])


def _probability(name: str, value: float, values: str) -> float:
    if values == "logits":
        return sigmoid(value)
    if not 0 <= value <= 1:
        raise ValueError(f"part '{name}' is {value:g}, and the gate was told that it gives probabilities")
    return value


def _is_true(value: Any, column: str) -> bool:
    """Raises ValueError for what is neither true nor false: a guess would decide which model is asked."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"the column '{column}' is {value!r}, neither true nor false")
