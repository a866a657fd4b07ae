"""`rlhf-lora evaluate judge=NAME dataset=…`: options, and the figures as lines for a terminal, each with its interval."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora import judge_measured
from rlhf_lora.errors import ConfigError

WIDTH = 40


def run(overrides: Sequence[str], options: Mapping[str, str], as_json: bool) -> int:
    """Measure a judge and print what was found: figures to stdout, warnings to stderr as well where stdout is JSON.

    Raises:
        UserError: what was given is wrong. ContractError: the judge is broken.
    """
    to = Path(options["--to"]).expanduser() if "--to" in options else None
    if to is not None:
        judge_measured.check_writable(to)
    own = Path(options["--config-dir"]) if "--config-dir" in options else None
    measured = judge_measured.measure(*overrides, pairs=_count(options.get("-n")), config_dir=own)
    if to is not None:
        judge_measured.write(measured.rows, to)
    print(json.dumps(measured.figures, indent=1) if as_json else "\n".join(lines(measured.figures)))
    if as_json:
        for warning in measured.figures["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
    return 0


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"-n wants a number of pairs, not '{text}'", where=f"-n {text}", fix="-n 200")
    return int(text)


def lines(found: Mapping[str, Any]) -> list[str]:
    """A table; what does not apply has no line. Warnings come last."""
    verdicts, position, length = found["verdicts"], found.get("position", {}), found.get("length", {})
    calibration, gold = found.get("calibration", {}), found.get("gold", {})
    of = "" if found["pairs"] == found["pairs_of_dataset"] else f" of {found['pairs_of_dataset']:,}, drawn by the seed"
    said = [
        f"judge={found['judge']} on dataset={found['dataset']}: {found['pairs']:,} pairs{of}, each asked in both orders"
    ]
    said += _rate("agrees with people", found, "agreement", f"{found['pairs_read']:,} pairs")
    said += _rate("  by one order alone", found, "agreement_one_order")
    said += _rate("  ties of both orders together", found, "ties")
    said += _rate("agrees with the truth", gold, "agreement", f"{gold.get('pairs', 0):,} pairs")
    said += _rate("  where it differs by 1 or more", gold, "agreement_far", f"{gold.get('pairs_far', 0):,} pairs")
    said += _rate("  people with the truth", gold, "agreement_of_people")
    said += _rate("position: takes the first", position, "first_share", "0.5 is fair")
    said += _rate("  winner changes with the order", position, "flip_rate")
    said += _rate("  after averaging", position, "flip_rate_averaged")
    said += _rate("length: takes the longer", length, "longer_share")
    said += _rate("  people take the longer", length, "longer_share_people")
    for name in ("shorter", "longer"):
        where = f"{length.get(f'pairs_where_{name}_chosen', 0):,} pairs"
        said += _rate(f"  agrees where people took the {name}", length, f"agreement_where_{name}_chosen", where)
    if calibration:
        said += _rate("Brier score of its probabilities", calibration, "brier", "0.25 says nothing, 0 is perfect")
        said.append(f"{'  calibration error':{WIDTH}}{calibration['calibration_error']:.3f}")
    counts = ", ".join(f"{verdicts[name]:,} {name}" for name in ("ties", "refusals", "unreadable", "errors"))
    said.append(f"{'verdicts':{WIDTH}}{verdicts['asked']:,} asked: {verdicts['a']:,} A, {verdicts['b']:,} B, {counts}")
    if found.get("usage"):
        said.append(
            f"{'spent':{WIDTH}}" + ", ".join(f"{name} {_number(value)}" for name, value in found["usage"].items())
        )
    for reason, count in found.get("left_out", {}).items():
        said.append(f"{'left out by the dataset':{WIDTH}}{count:,}: {reason}")
    return [*said, *(f"warning: {one}" for one in found["warnings"])]


def _rate(what: str, part: Mapping[str, Any], name: str, note: str = "") -> list[str]:
    if name not in part:
        return []
    low, high = part[f"{name}_ci95"]
    return [f"{what:{WIDTH}}{part[name]:.3f}  [{low:.3f}, {high:.3f}]" + (f"  {note}" if note else "")]


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
