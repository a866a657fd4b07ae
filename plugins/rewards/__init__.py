"""Built-in rewards."""

from . import constraints, instructions, learned, length, orders_gold, random  # noqa: F401
