"""Fails when it is opened."""

from rlhf_lora import reward


@reward("cannot_open")
class CannotOpen:
    """Wants a server that is not there."""

    def open(self, ctx):
        raise ConnectionRefusedError("no server at localhost:9")

    def score(self, samples):
        return [0.0 for _ in samples]
