"""Built-in rewards."""

from . import learned, length, mix, orders_gold, random, sequence_classifier  # noqa: F401
