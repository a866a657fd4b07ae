"""Built-in rewards."""

from . import (constraints, instructions, learned, length, math_answer, mix, orders_gold, random, rules, sequence_classifier, unit_tests)  # noqa: F401
