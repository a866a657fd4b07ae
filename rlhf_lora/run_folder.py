"""The run folder: what a run writes, where, and how it is read again.

config.yaml     the resolved configuration; written last, it marks the folder as a run
versions.json   python, packages, threads, commit
metrics.jsonl   one flat row a step: stage, step, time_s, then names; finite numbers only
samples/        STAGE-STEP.parquet: completions with tokens, log-probs, scores and reasons
checkpoints/    see `checkpoints`
adapters/       sft, reward, policy: PEFT layout
summary.json    the figures; report.html and README.md show them
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora import checkpoints, tables
from rlhf_lora.atomic import settle, write_text
from rlhf_lora.checkpoints import Checkpoint
from rlhf_lora.errors import UserError
from rlhf_lora.metrics_file import MetricsFile
from rlhf_lora.plain import plain

if TYPE_CHECKING:
    from torch import Tensor

_SAMPLES = re.compile(r"^(?P<stage>.+?)(?:-(?P<step>\d{6,}))?\.parquet$")


class RunFolder:
    """One run on disk. Reading is free for all; a process that writes calls `claim` first."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._metrics = MetricsFile(self.path / "metrics.jsonl")
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any], versions: Mapping[str, Any]) -> RunFolder:
        """Lay out a new run.

        Args:
            config: the resolved configuration, plain values only; secrets are the caller's to keep out.
            versions: what the run runs on, as `software.versions` says it.

        Raises:
            UserError: the folder holds a run, or other people's files.
        """
        folder = cls(path)
        if (folder.path / "config.yaml").exists():
            raise UserError(f"{path} is a run folder already", where=f"run_dir={path}", fix="give another run_dir")
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"{path} is a file", where=f"run_dir={path}", fix="give a folder that is new or empty")
        foreign = [p.name for p in folder.path.glob("*") if not p.name.startswith(".") and p.suffix != ".log"]
        if foreign and not (folder.path / "versions.json").exists():
            raise UserError(
                f"{path} holds other files: {', '.join(sorted(foreign)[:3])}",
                where=f"run_dir={path}",
                fix="give a folder that is new or empty",
            )
        for name in ("samples", "checkpoints", "adapters"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        folder.save_versions(versions)
        write_text(folder.path / "config.yaml", _yaml(plain(config, keep_none=True)))
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run.

        Raises:
            UserError: it is no run folder.
        """
        if not (Path(path) / "config.yaml").is_file():
            missing = "does not exist" if not Path(path).exists() else "is no run folder (it has no config.yaml)"
            raise UserError(f"{path} {missing}", where=str(path), fix="give the folder that `rlhf-lora train` printed")
        return cls(path)

    def claim(self) -> RunFolder:
        """Be the one process that writes here until it ends, and clear what a killed one left half-written.

        Raises:
            UserError: another process is writing to this run.
        """
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks, the user's care has to do
            pass
        else:
            self._lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.release()
                raise UserError(
                    f"another process is writing to {self.path}",
                    where=f"run_dir={self.path}",
                    fix="wait for it to end, or give another run_dir",
                ) from None
        for name in (".", "samples", "checkpoints", "adapters"):
            settle(self.path / name)
        return self

    def release(self) -> None:
        """Let others write here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- places -------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def adapters(self) -> Path:
        return self.path / "adapters"

    def adapter(self, name: str) -> Path:
        """`adapters/NAME`, whether it is there or not."""
        return self.adapters / name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as saved."""
        import yaml

        return dict(yaml.safe_load((self.path / "config.yaml").read_text("utf-8")) or {})

    @property
    def versions(self) -> dict[str, Any]:
        return _read_json(self.path / "versions.json")

    def save_versions(self, versions: Mapping[str, Any]) -> None:
        write_text(self.path / "versions.json", _json(plain(versions)))

    # --- metrics ------------------------------------------------------------------------------------------------------

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row to metrics.jsonl; see `MetricsFile.append`."""
        self._metrics.append(stage, step, metrics)

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, of one stage or of all; see `MetricsFile.rows`."""
        return self._metrics.rows(stage)

    def drop_metrics_after(self, stage: str, step: int) -> int:
        """Forget the rows of `stage` after `step`; returns how many went."""
        return self._metrics.drop_after(stage, step)

    # --- samples ------------------------------------------------------------------------------------------------------

    def samples_path(self, stage: str, step: int | None = None) -> Path:
        return self.path / "samples" / (f"{stage}.parquet" if step is None else f"{stage}-{step:06d}.parquet")

    def save_samples(self, stage: str, step: int | None, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write `samples/STAGE-STEP.parquet` (`samples/STAGE.parquet` without a step), one row per sample.

        Rows may have different keys; what a row lacks is null. Mappings of numbers (a score's parts) become a map.

        Raises:
            Stopped: a number is not finite.
        """
        path = self.samples_path(stage, step)
        tables.write(path, rows)
        return path

    def read_samples(self, stage: str, step: int | None = None) -> list[dict[str, Any]]:
        """The rows of one samples file; an empty list when it is not there."""
        path = self.samples_path(stage, step)
        return tables.read(path) if path.is_file() else []

    def sample_steps(self, stage: str) -> list[int]:
        """The steps of `stage` whose samples are there."""
        found = [m for p in (self.path / "samples").glob("*.parquet") if (m := _SAMPLES.match(p.name))]
        return sorted(int(m["step"]) for m in found if m["stage"] == stage and m["step"])

    def drop_samples_after(self, stage: str, step: int) -> int:
        """Remove the samples of `stage` after `step`; returns how many files went."""
        late = [s for s in self.sample_steps(stage) if s > step]
        for one in late:
            self.samples_path(stage, one).unlink()
        return len(late)

    # --- state and figures --------------------------------------------------------------------------------------------

    def save_checkpoint(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2
    ) -> Path:
        """Save the state after update `step`; see `checkpoints.save`."""
        return checkpoints.save(self.checkpoints, step, tensors, state, keep)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, None when there is none; see `checkpoints.latest`."""
        return checkpoints.latest(self.checkpoints)

    def rewind(self, stage: str, step: int) -> None:
        """Forget metrics and samples of `stage` after `step`: the run goes on from there."""
        self.drop_metrics_after(stage, step)
        self.drop_samples_after(stage, step)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`: finite numbers, six significant digits; keys whose value is None are left out.

        Raises:
            Stopped: a number is not finite; the message names its key.
        """
        write_text(self.path / "summary.json", _json(plain(summary, digits=6)))

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says; empty while there is none."""
        return _read_json(self.path / "summary.json")


def find_run(path: str | os.PathLike[str]) -> RunFolder:
    """The run that `path` means: the folder itself, the run it lies in, or the only run below it.

    Raises:
        UserError: there is none, or there are several to choose from.
    """
    start = Path(path)
    for folder in [start, *list(start.resolve().parents)[:3]]:
        if (folder / "config.yaml").is_file() and (folder / "versions.json").is_file():
            return RunFolder(folder)
    below = sorted(p.parent for p in start.glob("**/versions.json") if (p.parent / "config.yaml").is_file())
    if len(below) == 1:
        return RunFolder(below[0])
    if below:
        some = ", ".join(str(p) for p in below[-3:])
        raise UserError(f"{path} holds {len(below)} runs", where=str(path), fix=f"name one of them, such as {some}")
    return RunFolder.open(path)


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, indent=2) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise UserError(f"{path.name} cannot be read", where=str(path), fix="restore the file or delete it") from None


def mended(summary: Mapping[str, Any]) -> list[str]:
    """Plugin files that were edited while the run was stopped: its figures are of both."""
    return [f"{one['what']} was another file up to update {one['after_update']}" for one in summary.get("mended", ())]
