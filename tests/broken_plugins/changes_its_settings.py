"""Is another plugin after it was saved and built again."""

from rlhf_lora import reward


@reward("changes_its_settings")
class ChangesItsSettings:
    """Counts from one more than it is told."""

    target: int = 5

    def __post_init__(self):
        object.__setattr__(self, "target", self.target + 1)

    def score(self, samples):
        return [float(len(sample.text) - self.target) for sample in samples]
