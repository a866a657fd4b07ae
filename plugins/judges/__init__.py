"""Built-in judges."""

from . import openai_api  # noqa: F401
