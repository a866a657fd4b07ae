"""A reviser for tests and benchmarks: it knows the truth, and mends what the truth calls wrong, some of the time.

Language models of a toy's size cannot critique. This one stands in for them, so that what follows a revision (training on
it, labels, a policy) can be measured where everything is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from rlhf_lora.records import Sample
from rlhf_lora.revising import Draft, Revision

Truth = Callable[[Sequence[Sample]], Sequence[float | None]]
"""True values of answers; None where the truth says nothing."""


class Mender:
    """Takes out the word that the truth likes least, with a probability; else the answer stays as it was.

    Args:
        mends: probability that a draft which can be made better by leaving out one word is.
        seed: of the lots, one for each prompt and round.
    """

    def __init__(self, truth: Truth, mends: float = 0.5, seed: int = 0):
        self.truth, self.mends, self.seed = truth, mends, seed

    def revise_all(self, drafts: Sequence[Draft]) -> list[Revision]:
        return [self._revised(draft) for draft in drafts]

    def _revised(self, draft: Draft) -> Revision:
        if self._lot(draft) >= self.mends:
            return Revision(draft.answer, "nothing was found")
        words = draft.answer.split()
        tries = [draft.answer, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]
        prompt = draft.prompt
        values = self.truth([Sample(prompt.text, text, columns=prompt.columns) for text in tries])
        if values[0] is None:
            return Revision(draft.answer, "the truth says nothing of it")
        best = max(range(len(tries)), key=lambda i: (float("-inf") if values[i] is None else values[i], -i))
        return Revision(tries[best], f"'{words[best - 1]}' goes against it" if best else "it keeps to it")

    def _lot(self, draft: Draft) -> float:
        said = f"mend\n{self.seed}\n{draft.round}\n{draft.prompt.text}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(said).digest()[:6], "big") / 2**48
