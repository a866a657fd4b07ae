"""A reward source at work, held to its contract: count, order, finiteness, inputs untouched, columns handed over.

What goes wrong ends in one of two ways: the run stops and says which sample it was, or the samples that it went wrong for
have no score and the reason (`scoring.on_error`). Nothing that goes wrong becomes a number.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rlhf_lora.errors import ContractError
from rlhf_lora.records import Sample, Score
from rlhf_lora.reward_calls import Direct, Failed, WithDeadline, Worker
from rlhf_lora.scores import columns_of, values_of


class Scorer:
    """Call an opened reward source on samples and get one `Score` each.

    Args:
        source: an opened reward. name: what to call it in messages.
        deadline: seconds that one call may take; None = as long as it likes. Not held against a source that is on_device.
        on_device: it computes where the backbone does: it is called in the main thread, and not while a rollout goes on.
            None = as the source says.
        on_error: `stop` = a call that fails ends the run; `missing` = the samples it fails for have no score.
        worker: the same source in a process of its own, to be called in its place.
    """

    def __init__(
        self, source: Any, name: str, *, deadline: float | None = None, on_error: str = "stop",
        worker: Worker | None = None, on_device: bool | None = None,
    ):  # fmt: skip
        self.source, self.name, self.on_error = source, name, on_error
        self.on_device = bool(getattr(source, "on_device", False) if on_device is None else on_device)
        self.columns = columns_of(source)
        self._call: Direct | Worker
        if worker is not None:
            self._call = worker
        elif deadline is None or self.on_device:
            self._call = Direct(source, name)
        else:
            self._call = WithDeadline(source, name, deadline)

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        """One score per sample, in order.

        Raises:
            ContractError: what the plugin returned is no list of scores; or it failed and `on_error` is `stop`.
            DataError: it wants a column that the data does not have.
        """
        if not samples:
            return []
        try:
            return self._scores(samples)
        except Failed as failure:
            if self.on_error == "stop" or not failure.usable:
                raise ContractError(self._told(samples, failure)) from failure
            return self._apart(samples, failure)

    def watch(self, update: int, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        """What the source has to say of an update, beside the scores that it gave: metrics, none where it has no `watch`.

        Raises:
            Stopped: it has seen what no run should go on with.
        """
        watch = getattr(self.source, "watch", None)
        return dict(watch(update, samples, scores)) if callable(watch) else {}

    @property
    def apart(self) -> bool:
        """It runs in a process of its own."""
        return isinstance(self._call, Worker)

    @property
    def overlaps(self) -> bool:
        """It may be asked about part of a rollout while the rest is being sampled."""
        return not self.on_device and not getattr(self.source, "whole_batch", False)

    @contextmanager
    def overlapping(self) -> Iterator[Overlap]:
        """Scores parts of a rollout in a thread as they come: `add` them, then ask for the `scores` of all."""
        overlap = Overlap(self)
        try:
            yield overlap
        finally:
            overlap.stop()

    def close(self) -> None:
        self._call.close()

    def _scores(self, samples: Sequence[Sample]) -> list[Score]:
        return self._call(samples, values_of(self.columns, samples, self.name))

    # --- when a call fails --------------------------------------------------------------------------------------------

    def _apart(self, samples: Sequence[Sample], failure: Failed) -> list[Score]:
        """The batch failed: halves, and halves of halves, until only the samples that it fails for have no score."""
        if failure.hangs or len(samples) == 1:
            return [Score.none(f"the reward {failure}", kind="error")] * len(samples)
        found = []
        for part in (samples[: len(samples) // 2], samples[len(samples) // 2 :]):
            try:
                found += self._scores(part)
            except Failed as again:
                if not again.usable:
                    raise ContractError(self._told(part, again)) from again
                found += self._apart(part, again)
        return found

    def _told(self, samples: Sequence[Sample], failure: Failed) -> str:
        lines = [f"the reward '{self.name}' {failure}"]
        found = None if failure.hangs else self._culprit(samples)
        if found is not None:
            sample = samples[found[0]]
            lines[0] = f"the reward '{self.name}' {found[1]}"
            lines.append(
                f"  where: sample {found[0]} of {len(samples)}: {_short(sample.prompt)} → {_short(sample.text)}"
            )
        else:
            lines.append(f"  where: a batch of {len(samples)} samples")
        if self.on_error == "stop":
            lines.append("  to do: mend it; or scoring.on_error=missing goes on without the samples it fails for")
        return "\n".join(lines)

    def _culprit(self, samples: Sequence[Sample]) -> tuple[int, Failed] | None:
        """The first sample that it fails for when asked about it alone."""
        for i, sample in enumerate(samples):
            try:
                self._scores([sample])
            except Failed as failure:
                return i, failure
            except ContractError:
                continue
        return None


class Overlap:
    """Scores that are made while the rollout goes on."""

    def __init__(self, scorer: Scorer):
        self._scorer = scorer
        self._parts: queue.Queue[tuple[Sequence[int], Sequence[Sample]] | None] = queue.Queue()
        self._found: dict[int, Score] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="scores")
        self._thread.start()

    def add(self, places: Sequence[int], samples: Sequence[Sample]) -> None:
        """Samples of a rollout, and where in it they stand."""
        self._parts.put((places, samples))

    def scores(self, count: int) -> list[Score]:
        """Of the whole rollout, in order; raises what the reward raised."""
        self.stop()
        if self._error is not None:
            raise self._error
        return [self._found[i] for i in range(count)]

    def stop(self) -> None:
        self._parts.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (part := self._parts.get()) is not None:
            if self._error is None:
                try:
                    self._found |= zip(part[0], self._scorer(part[1]), strict=True)
                except BaseException as error:
                    self._error = error


def _short(text: str, most: int = 60) -> str:
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= most else shown[: most - 1] + "…")
