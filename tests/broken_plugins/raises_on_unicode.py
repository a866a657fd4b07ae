"""Knows Latin-1 only."""

from rlhf_lora import reward


@reward("raises_on_unicode")
def raises_on_unicode(samples):
    return [float(len(sample.text.encode("latin-1"))) for sample in samples]
