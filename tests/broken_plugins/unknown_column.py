"""Asks for a column that no data has."""

from rlhf_lora import reward


@reward("unknown_column")
def unknown_column(samples, *, solution_xyz):
    return [float(value in sample.text) for value, sample in zip(solution_xyz, samples, strict=True)]
