"""A reward that compares instead of scoring: what an answer is worth is the probability that it beats a reference answer.

The reference policy answers each prompt of a batch once; with which answer an answer is compared is decided by the run's
seed and the prompts of the batch alone, so that a resumed run compares with the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from rlhf_lora.errors import ContractError
from rlhf_lora.records import Prompt, Sample, Score, Verdict, named_seed
from rlhf_lora.reward_calls import call_seconds, within
from rlhf_lora.scores import awaited, win_probability


class Against:
    """Scores in [0, 1] from `compare(pairs) -> verdicts`: P(A is better), ½ for a tie, none where it could not be read.

    Args:
        source: an opened reward with `compare`, plain or async. engine: samples the reference's answers on the backbone.
        deadline: seconds that one call of `compare` may take; None = as long as it likes. Not held against a source that is
            itself `on_device`.
    """

    on_device = True
    whole_batch = True
    columns = ()

    def __init__(self, source: Any, backbone: Any, engine: Any, seed: int, name: str, deadline: float | None = None):
        self.source, self.backbone, self.engine, self.seed, self.name = source, backbone, engine, seed, name
        self.deadline = None if getattr(source, "on_device", False) else deadline
        self._last: dict[str, Sample] = {}

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        if not samples:
            return []
        answers = self._last = self._answers(samples)
        pairs = [(sample, answers[_key(sample)]) for sample in samples]
        verdicts = (
            self._compared(pairs)
            if self.deadline is None
            else within(
                max(self.deadline, call_seconds(self.source, len(pairs))), lambda: self._compared(pairs), self.name
            )
        )
        if not hasattr(verdicts, "__len__") or len(verdicts) != len(samples):
            found = len(verdicts) if hasattr(verdicts, "__len__") else type(verdicts).__name__
            raise ContractError(f"reward '{self.name}' gave {found} verdicts for {len(samples)} pairs")
        for i, verdict in enumerate(verdicts):
            if not isinstance(verdict, Verdict):
                raise ContractError(f"reward '{self.name}' gave {verdict!r} for pair {i}; wanted a Verdict")
        return [win_probability(verdict) for verdict in verdicts]

    def watch(self, update: int, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        """What the source's own `watch` gives, told with which answers the samples were compared."""
        if not callable(watch := getattr(self.source, "watch", None)):
            return {}
        found = [self._last.get(_key(sample)) for sample in samples]
        return dict(watch(update, samples, scores, [] if None in found else found))

    def _compared(self, pairs: Sequence[tuple[Sample, Sample]]) -> Any:
        return awaited(self.source.compare(pairs))

    def close(self) -> None:
        close = getattr(self.source, "close", None)
        if callable(close):
            close()

    def _answers(self, samples: Sequence[Sample]) -> dict[str, Sample]:
        prompts = {_key(sample): Prompt.of(sample) for sample in samples}
        stream = hashlib.sha256("\0".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()
        seed = named_seed(self.seed, f"against/{stream}")
        answers = self.engine.generate(self.backbone, list(prompts.values()), 1, seed, role="reference")
        return dict(zip(prompts, answers, strict=True))


def _key(sample: Sample) -> str:
    return repr((sample.prompt, sample.messages))
