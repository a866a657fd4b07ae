"""`dataset=labels`: what people and judges said of answers, in files of the format `labels/1` (docs/labels.md)."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.errors import ConfigError, DataError, did_you_mean
from rlhf_lora.labels import agreement as label_agreement
from rlhf_lora.labels import files as label_files
from rlhf_lora.labels import rows as label_rows
from rlhf_lora.labels import selection, votes
from rlhf_lora.labels.selection import ALL, Counting, Placed
from rlhf_lora.records import ASSISTANT, Data, Unused
from rlhf_lora.registry import dataset

from . import json_rows, parts
from .helpdesk import Helpdesk
from .orders import Orders

READERS = (label_files, label_rows, selection, votes, json_rows, parts)
"""The modules that decide what becomes of a row: part of the fingerprint."""
MENUS = {
    "on_disagreement": ("majority", "soft", "drop"),
    "ties": ("drop", "half"),
    "margins": ("small", "large", "none"),
    "mini_task": (None, "orders", "helpdesk"),
}

TOKENS = {"orders": Orders.max_new_tokens, "helpdesk": Helpdesk.max_new_tokens}
"""What an answer takes in a generated task: the embedded base has no room for the tokens of real ones."""


@dataset("labels")
class Labels:
    """Comparisons, rankings, choices, ratings and verdicts by people or judges, several raters if there are.

    Attributes:
        path: a file, a pattern (`labels/*.jsonl`), or a list of these.
        test_path: the same for the final evaluation alone; prompts that both have are taken out of the first.
        criterion: labels by this one; null = the one that there is; all = every one, each apart.
        raters: labels of these alone; null = of everybody.
        on_disagreement: majority, soft (a probability, the mean over raters), or drop what raters are not of one mind on.
        ties: drop, or half: a tie is half a vote for each side, and where it wins, a pair of label one half to learn from.
        margins: of strengths in words: small (1, 2/3, 1/3, 0), large (3, 2, 1, 0), or none; numbers stand as they are.
        min_raters: how many must have labelled a thing.
        min_agreement: the share of them that must have said the same, 0 to 1.
        mini_task: orders or helpdesk where the answers are in the words of that task, so that the embedded base knows them.
        gold: name of the reward that is the truth for these prompts, where there is one.
    """

    path: Any
    test_path: Any = None
    criterion: str | None = None
    raters: list[str] | None = None
    on_disagreement: str = "majority"
    ties: str = "drop"
    margins: str = "small"
    min_raters: int = 1
    min_agreement: float = 0.0
    mini_task: str | None = None
    gold: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError where a setting is off its menu or out of range, before a file is opened."""
        for name, menu in MENUS.items():
            if (given := getattr(self, name)) not in menu:
                raise ConfigError(
                    f"there is no {name} '{given}'{did_you_mean(str(given), [word for word in menu if word])}",
                    where=f"dataset.{name}", fix=f"one of: {', '.join(word or 'null' for word in menu)}",
                )  # fmt: skip
        for name in ("path", "test_path"):
            given = getattr(self, name)
            if not (given is None or isinstance(given, str) or _is_list(given)):
                raise ConfigError(
                    f"{name} is {given!r}", where=f"dataset.{name}", fix="give a file, a pattern, or a list"
                )
        if not self.path:
            raise ConfigError("no labels file is given", where="dataset.path", fix="dataset.path=FILE")
        if self.min_raters < 1:
            raise ConfigError(f"min_raters is {self.min_raters}", where="dataset.min_raters", fix="give 1 or more")
        if not 0 <= self.min_agreement <= 1:
            raise ConfigError(
                f"min_agreement is {self.min_agreement}", where="dataset.min_agreement", fix="give a share, 0 to 1"
            )

    @property
    def max_new_tokens(self) -> int | None:
        """Of a reply in the words of `mini_task`, its end included; None where no task is named."""
        return TOKENS.get(self.mini_task or "")

    def load(self) -> Data:
        """Read the files, count the votes, and measure how far raters agree.

        Raises:
            DataError: a file that is not there or holds something else, or no label that can be used.
            ConfigError: a file in both paths.
        """
        if set(self._files("test_path")) & set(self._files("path")):
            raise ConfigError(
                "a file is to be learned from and judged on", where="dataset.test_path",
                fix="leave it out: a share of the prompts is kept for the final evaluation anyway",
            )  # fmt: skip
        data = self._read("path")
        return dataclasses.replace(data, test=self._read("test_path")) if self.test_path else data

    def fingerprint(self) -> str:
        """SHA-256 of what the files hold and how it is read; where they lie does not matter."""
        contents = [
            [hashlib.sha256(json_rows.read(file, f"dataset.{setting}")).hexdigest() for file in self._files(setting)]
            for setting in ("path", "test_path")
        ]
        readers = [hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest() for module in READERS]
        settings = {**dataclasses.asdict(self), "path": "", "test_path": ""}
        return hashlib.sha256(json.dumps([contents, readers, settings], sort_keys=True).encode()).hexdigest()

    def _read(self, setting: str) -> Data:
        files = self._files(setting)
        names = Counter(Path(file).name for file in files)
        rows: list[Placed] = []
        unused: list[Unused] = []
        for file in files:
            name = Path(file).name if names[Path(file).name] == 1 else file
            found = label_files.parse(json_rows.read(file, f"dataset.{setting}"), name)
            unused += found.unused
            for where, row in found.rows:
                try:
                    rows.append((where, _with_turns(row)))
                except parts.NotUsable as reason:
                    unused.append(Unused(where, str(reason)))
        data = votes.counted(rows, self._counting())
        data = dataclasses.replace(data, unused=[*unused, *data.unused])
        if not (data.pairs or data.rankings or data.ratings or data.labels):
            self._refuse(setting, data)
        wanted = [row for _, row in rows if self.criterion in (None, ALL, row.criterion) and self._heard(row.rater)]
        remarks = [agreement.in_words for agreement in label_agreement.measured(wanted)]
        return dataclasses.replace(data, format=_described(wanted), remarks=remarks, gold=self.gold)

    def _heard(self, rater: str) -> bool:
        return not self.raters or rater in self.raters

    def _counting(self) -> Counting:
        names = [f.name for f in dataclasses.fields(Counting) if f.name != "raters"]
        return Counting(raters=tuple(self.raters or ()), **{name: getattr(self, name) for name in names})

    def _files(self, setting: str) -> list[str]:
        """The files that a setting names, each once; those of a pattern sorted.

        Raises:
            DataError: a pattern that no file fits.
        """
        given = getattr(self, setting)
        found: dict[str, None] = {}
        for pattern in [given] if isinstance(given, str) else given or []:
            pattern = str(Path(pattern).expanduser())
            is_pattern = glob.has_magic(pattern) and not Path(pattern).exists()
            files = sorted(glob.glob(pattern, recursive=True)) if is_pattern else [pattern]
            if not files:
                raise DataError(
                    f"no file fits {pattern}", where=f"dataset.{setting}, looked for from {Path.cwd()}",
                    fix="correct the pattern; quote it, or the shell may take it for its own",
                )  # fmt: skip
            found |= dict.fromkeys(files)
        return list(found)

    def _refuse(self, setting: str, data: Data) -> None:
        given = f"dataset.{setting}={getattr(self, setting)}"
        if not data.unused:
            raise DataError("there is no label in it", where=given, fix="give a file with labels (docs/labels.md)")
        reasons = Counter(row.reason for row in data.unused).most_common()
        raise DataError(
            f"none of the {len(data.unused)} labels can be used: "
            + "; ".join(f"{reason} ({count} ×)" for reason, count in reasons),
            where=f"{given}; {data.unused[0].where}", fix="correct that line first (docs/labels.md)",
        )  # fmt: skip


def _with_turns(row: label_rows.LabelRow) -> label_rows.LabelRow:
    """The row; a prompt that is a bare transcript has its turns and its group, as every dataset here reads it.

    Raises:
        NotUsable: a transcript without a user turn right before the reply.
    """
    prompt = row.prompt
    if prompt.messages is not None or not (parts.is_transcript(prompt.text) and prompt.text.endswith(ASSISTANT)):
        return row
    read = parts.prompt_of(prompt.text, prompt.columns)
    return dataclasses.replace(row, prompt=dataclasses.replace(read, group=prompt.group or read.group))


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and bool(given) and all(isinstance(one, str) for one in given)


def _described(rows: Sequence[label_rows.LabelRow]) -> str:
    kinds = ", ".join(f"{count:,} {kind}s" for kind, count in Counter(row.kind for row in rows).items())
    raters = [rater for rater in label_rows.distinct(rows, "rater") if rater]
    by = f" by {len(raters)} raters" if len(raters) > 1 else f" by {raters[0]}" if raters else ""
    return f"{label_rows.FORMAT}: {kinds}{by}; criterion {', '.join(label_rows.distinct(rows, 'criterion'))}"
