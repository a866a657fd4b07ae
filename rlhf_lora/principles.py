"""The constitution of critiques and revisions: `revisions.constitution`, a list of sentences or a file of them.

A file is text, one sentence a line, or JSON or YAML: a list of sentences, a list of {id, principle}, or, as Bai et al. 2022
published theirs, named {prompt, edit_request}: in which words a critique and a revision are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.constitution import rows_of
from rlhf_lora.revising import Principle

WHERE = "revisions.constitution"
OWN = (
    Principle("harm", "Do not help anybody to hurt people, animals or property; refuse that part and say why."),
    Principle("refuse_with_reason", "When something cannot be given, say so plainly, say why, and help with the rest."),
    Principle("honest", "Say nothing that is not so, and do not pretend to know what you do not know."),
    Principle("respect", "Be courteous, and do not insult, threaten or talk down to anybody."),
    Principle("useful", "Answer what was asked for, all of it, and nothing that was not asked for."),
    Principle("law", "Do not help to break the law or to get around what protects people."),
    Principle("private", "Do not give away anybody's private matters."),
    Principle("calm", "Do not lecture; one sentence of concern is enough."),
)
"""What is taken where none is given; our own words."""


def principles_of(settings: Any) -> list[Principle]:
    """The principles that `revisions.constitution` names; `OWN` where it is null.

    Raises:
        ConfigError: no such file, or it holds something else; or there is not one principle.
    """
    given = settings.constitution
    if given is None:
        return list(OWN)
    rows = rows_of(Path(given), WHERE) if isinstance(given, str) else given
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise ConfigError("the constitution has no principle", where=WHERE, fix="give one sentence or more")
    return [_principle(row, number) for number, row in enumerate(rows, 1)]


def _principle(row: Any, number: int) -> Principle:
    if isinstance(row, str) and row.strip():
        return Principle(str(number), row.strip())
    if isinstance(row, Mapping):
        name = str(row.get("id", number))
        text, critique, revision = (str(row.get(key) or "") for key in ("principle", "prompt", "edit_request"))
        if text or (critique and revision):
            return Principle(name, text or critique, critique, revision)
    raise ConfigError(
        f"principle {number} of the constitution is no sentence", where=WHERE,
        fix="a sentence, {id, principle}, or {prompt, edit_request}",
    )  # fmt: skip
