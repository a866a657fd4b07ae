"""Built-in rewards."""

from . import constraints, instructions, learned, length, orders_gold, random, unit_tests  # noqa: F401
