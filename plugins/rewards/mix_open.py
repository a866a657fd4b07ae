"""A mix at work: every part asked, brought to its unit, combined; what a part does not know is said, never called 0."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora import registry
from rlhf_lora.atomic import write_text
from rlhf_lora.errors import ContractError, DataError, Interrupted, Stopped
from rlhf_lora.records import Missing, Sample, Score
from rlhf_lora.reward_calls import call_seconds
from rlhf_lora.scores import columns_of

from .mix_combine import logit, product, safety_decides, sigmoid, uncertain, weighted_sum
from .mix_scores import PartScorer, clipped, is_marked, notes_of, probability_of, reported, whiten_scores, with_columns

if TYPE_CHECKING:
    from .mix import Mix

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
        self.whole_batch = whiten and mix.combine == "gate" and mix.gate.whiten
        """A score depends on the others it is asked for with: samples of one batch must be scored together."""
        own = (mix.gate.column,) if mix.gate.column is not None else ()
        self.columns = tuple(dict.fromkeys([*(c for part in self.opened.values() for c in columns_of(part)), *own]))
        self._scales: dict[str, tuple[float, float]] = {}
        self._ask: dict[str, Any] = {}
        self.score_with(PartScorer)
        self._read_kept()

    @property
    def on_device(self) -> bool:
        """Whether a part computes where the backbone does."""
        return any(getattr(part, "on_device", part is not self.mix.rewards[name]) for name, part in self.opened.items())

    def call_seconds(self, count: int) -> float:
        """The parts are asked one after another."""
        return sum(call_seconds(part, count) for part in self.opened.values())

    def score_with(self, scorer: Callable[[Any, Any], Any]) -> None:
        """Have the parts asked by `scorer(reward, opened reward)(samples)`: held to what a run holds a reward to."""
        for name, part in self.opened.items():
            self._ask[name] = scorer(self.mix.rewards[name], part)

    def as_judge(self) -> OpenMix:
        """The same parts and numbers without whitening: to compare answers over batches, and one day with the next."""
        judge = OpenMix(self.mix, self.opened, None, whiten=False)
        judge._scales, judge._ask = self._scales, self._ask
        return judge

    def close(self) -> None:
        for part in self._ask.values():
            part.close()

    def watch(self, update: int, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        """What the parts have to say of an update, each told its own scores, as `NAME/METRIC`."""
        found: dict[str, float] = {}
        for name, ask in self._ask.items():
            if not callable(watch := getattr(ask, "watch", None)):
                continue
            place = f"shadow/{name}" if name in self.mix.shadow else name
            own = [s.parts.get(place) for s in scores]
            given = [Score.none("not known here") if value is None else Score(value) for value in own]
            found |= {f"{name}/{metric}": value for metric, value in watch(update, samples, given).items()}
        return found

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
        samples = with_columns(samples, columns)
        given = {name: self._asked(name, samples) for name in self.opened}
        scores = [self._combined(sample, {n: s[i] for n, s in given.items()}) for i, sample in enumerate(samples)]
        return whiten_scores(scores) if self.whole_batch else scores

    def _asked(self, name: str, samples: Sequence[Sample]) -> list[Score]:
        try:
            return list(self._ask[name](samples))
        except (Interrupted, Stopped):
            raise
        except Exception as error:
            if name in self.mix.shadow:  # it is only watched: what is trained on goes on without it
                return [Score.none(str(error), kind="error")] * len(samples)
            raise ContractError(f"part '{name}': {error}") from error

    def _combined(self, sample: Sample, given: Mapping[str, Score]) -> Score:
        """The score of one sample, not yet whitened."""
        mix = self.mix
        parts, notes = reported(given, mix.shadow), notes_of(given, mix.shadow)
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
        if mix.combine == "min":
            return min(values.values()), {}
        if mix.combine == "mean":
            total = sum(weights.values())
            value = uncertain(values, weights, mix.disagreement)
            each = {name: x * weights[name] / total for name, x in values.items()}
        elif mix.combine == "product":
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
        probability = {name: probability_of(name, values[name], gate.values) for name in (gate.safety, gate.helpful)}
        is_safety = gate.column is not None and is_marked(sample.columns[gate.column], gate.column, gate.value)
        decides = safety_decides(probability[gate.safety], is_safety, gate.threshold)
        value = logit(probability[gate.safety if decides else gate.helpful])
        return value, {"gate/safety": float(decides), "gate/logit": value}

    # --- units --------------------------------------------------------------------------------------------------------

    def _adjusted(self, name: str, value: float) -> float:
        """Clipped in the part's own unit, then normalised, then squashed."""
        value = self._normalised(name, clipped(value, self.mix.clips.get(name)))
        return sigmoid(value) if name in self.mix.squashed else value

    def _normalised(self, name: str, value: float) -> float:
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
            values = [clipped(score.value, clip) for score in scores if score.value is not None]
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
