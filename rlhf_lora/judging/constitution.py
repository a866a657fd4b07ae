"""What a judge goes by: a rubric in words, or a constitution, of which each item is held against a few principles.

Principles are drawn by lot per item (Bai et al. 2022, §4.1), by a seed and the item alone: both orders of a comparison, and
a run that is taken up again, are judged by the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lora.errors import ConfigError

BUILT_IN = "built_in"
RUBRIC = (
    "Judge by these three, in this order where they pull apart:\n"
    "1. Harmless: it does not help anybody to hurt others or themselves, and does not demean anyone.\n"
    "2. Honest: what it says is true as far as one can know, and it says so where it is not sure.\n"
    "3. Helpful: it answers what was asked, completely, clearly and without padding."
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One principle of a constitution. `id` names it in files."""

    id: str
    text: str


OWN = tuple(
    Rule(name, text)
    for name, text in (
        ("answers", "The better answer does what was asked, all of it, and nothing else."),
        ("true", "The better answer makes no claim that is false or made up."),
        ("unsure", "The better answer says plainly what it does not know, and does not guess as if it knew."),
        ("harm", "The better answer gives no help with hurting people, animals or property."),
        ("law", "The better answer does not show how to break the law or get round a safeguard."),
        ("private", "The better answer keeps other people's private matters private."),
        ("respect", "The better answer speaks of every person and group with respect."),
        ("calm", "The better answer stays friendly and calm, also with somebody who is not."),
        ("care", "The better answer takes the asker's health and safety seriously and points to real help."),
        ("plain", "The better answer is easy to follow for the person who asked."),
        ("short", "The better answer is no longer than its content needs."),
        ("no_preach", "The better answer does not lecture or accuse somebody who asked in good faith."),
        ("fair", "The better answer shows more than one side where reasonable people disagree."),
        ("not_human", "The better answer does not pretend to be a person, to have a body, or to have done things."),
        ("refuses_well", "Where something has to be declined, the better answer says so, says why and offers what it can do."),
        ("no_flattery", "The better answer tells the asker what is so, not what they would like to hear."),
    )
)  # fmt: skip


def rubric_of(given: str | None) -> str:
    """Words, or the contents of a text file; None: `RUBRIC`.

    Raises:
        ConfigError: what looks like a file is none, or it is empty.
    """
    if given is None:
        return RUBRIC
    if not _is_file_name(given):
        return given.strip()
    return _read(Path(given).expanduser(), "judge.rubric", "text").strip()


def constitution_of(given: str | None) -> tuple[Rule, ...]:
    """The principles of a file: a sentence a line in .txt; in .json or .yaml a list of sentences or of {id, principle}.

    `built_in`: `OWN`. None: none.

    Raises:
        ConfigError: no such file, or it holds something else, or nothing.
    """
    if given is None:
        return ()
    if given == BUILT_IN:
        return OWN
    rows = rows_of(Path(given), "judge.constitution")
    return tuple(_rule(row, number, given) for number, row in enumerate(rows, 1))


def rows_of(path: Path, where: str) -> list[Any]:
    """The rows of a constitution's file, not empty: the lines of text that do not begin with `#`; of .json and .yaml a list, the
    list under `principles`, or what stands under names, each with its name as `id`.

    Args:
        where: the setting that named the file.

    Raises:
        ConfigError: no such file, or it holds something else, or nothing.
    """
    path = path.expanduser()
    text = _read(path, where)
    if path.suffix not in (".json", ".yaml", ".yml"):
        rows: Any = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    else:
        rows = _parsed(text, path, where)
    if isinstance(rows, dict):
        rows = rows.get("principles") or [
            {"id": name, **row} if isinstance(row, dict) else row for name, row in rows.items()
        ]
    if not isinstance(rows, list) or not rows:
        raise ConfigError(
            f"{path} holds no list of principles",
            where=f"{where}={path}",
            fix="one sentence a line, or a list in JSON or YAML",
        )
    return rows


def drawn(rules: Sequence[Rule], item: Sequence[str], count: int, seed: int) -> tuple[Rule, ...]:
    """`count` different principles for an item, in the constitution's order; all where there are no more."""

    def lot(rule: Rule) -> bytes:
        said = "\0".join([str(seed), rule.id, rule.text, *item]).encode("utf-8", "surrogatepass")
        return hashlib.sha256(said).digest()

    kept = set(sorted(rules, key=lot)[:count])
    return tuple(rule for rule in rules if rule in kept)


def _rule(row: Any, number: int, path: str) -> Rule:
    text = row.get("principle", row.get("text", row.get("prompt"))) if isinstance(row, dict) else row
    name = str(row.get("id", number)) if isinstance(row, dict) else str(number)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"principle {number} of {path} is no sentence",
            where="judge.constitution",
            fix="a sentence, or {id, principle}",
        )
    return Rule(name, text.strip())


def _is_file_name(given: str) -> bool:
    return "\n" not in given and (Path(given).suffix in (".txt", ".md") or given.startswith(("/", "./", "~/")))


def _read(path: Path, where: str, of: str = "text, JSON or YAML") -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            where=f"{where}={path}",
            fix=f"a file of {of}, in UTF-8",
        ) from error
    if not text.strip():
        raise ConfigError(f"{path} is empty", where=f"{where}={path}", fix="write what the judge goes by into it")
    return text


def _parsed(text: str, path: Path, where: str) -> Any:
    import yaml

    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be parsed: {said}", where=f"{where}={path}", fix="mend the file") from error
