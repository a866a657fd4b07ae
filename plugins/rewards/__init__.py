"""Built-in rewards."""

from . import learned, length, orders_gold, random  # noqa: F401
