"""Wants answers that are finished."""

from rlhf_lora import reward


@reward("raises_on_cut_off")
def raises_on_cut_off(samples):
    assert all(sample.finished for sample in samples), "not finished"
    return [float(len(sample.text)) for sample in samples]
