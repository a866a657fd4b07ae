"""Built-in judges: importing them enters them in the table."""

from . import scripted  # noqa: F401
