"""Built-in judges: importing them enters them in the table."""

from . import local, openai_api, scripted  # noqa: F401
