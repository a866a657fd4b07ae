"""Takes the first word of an answer that has none."""

from rlhf_lora import reward


@reward("raises_on_empty_text")
def raises_on_empty_text(samples):
    return [float(len(sample.text.split()[0])) for sample in samples]
