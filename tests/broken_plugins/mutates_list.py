"""Takes samples out of the list that it was lent."""

from rlhf_lora import reward


@reward("mutates_list")
def mutates_list(samples):
    scores = []
    while samples:
        scores.append(float(len(samples.pop(0).text)))
    return scores
