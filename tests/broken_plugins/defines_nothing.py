"""Forgets its decorator."""


def defines_nothing(samples):
    return [0.0 for _ in samples]
