"""Rules as rewards: each of its own, or together as `reward=rules`."""

from . import layout, rule, rule_set, shape, structure, wording  # noqa: F401
