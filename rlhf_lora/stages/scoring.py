"""A reward source at work, held to its contract: count, order, finiteness, inputs untouched, columns handed over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_lora.errors import ContractError, DataError
from rlhf_lora.records import Sample, Score
from rlhf_lora.scores import check_scores, columns_of


class Scorer:
    """Call an opened reward source on samples and get one `Score` each.

    Args:
        source: an opened reward. name: what to call it in messages.
    """

    def __init__(self, source: Any, name: str):
        self.source, self.name = source, name
        self.columns = columns_of(source)

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        """One score per sample, in order.

        Raises:
            ContractError: the plugin raised, or what it returned is no list of scores.
            DataError: it wants a column that the data does not have.
        """
        if not samples:
            return []
        values = {name: self._column(name, samples) for name in self.columns}
        try:
            given = self.source.score(list(samples), **values)
        except ContractError:
            raise
        except Exception as error:
            raise ContractError(f"the reward '{self.name}' raised {type(error).__name__}: {error}") from error
        return check_scores(given, len(samples), self.name)

    def _column(self, name: str, samples: Sequence[Sample]) -> list[Any]:
        for sample in samples:
            if name not in sample.columns:
                have = ", ".join(sorted(sample.columns)) or "none"
                raise DataError(
                    f"the reward '{self.name}' wants the column '{name}', which the data does not have",
                    where=f"reward={self.name}",
                    fix=f"columns of this data: {have}",
                )
        return [sample.columns[name] for sample in samples]

    def close(self) -> None:
        close = getattr(self.source, "close", None)
        if callable(close):
            close()
