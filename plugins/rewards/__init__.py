"""Built-in rewards."""

from . import learned, length, orders_gold, random, rules  # noqa: F401
