"""A reward as a user writes it: the answer should say again what the prompt names, and not be long."""

from rlhf_lora import reward


@reward("repeats_order")
def repeats_order(samples, *, per_word=0.2):
    asked = [set(sample.prompt.split()) for sample in samples]
    said = [sample.text.split() for sample in samples]
    return [len(words & set(reply)) - per_word * len(reply) for words, reply in zip(asked, said, strict=True)]
