"""Built-in rewards."""

from . import learned, length, orders_gold  # noqa: F401
