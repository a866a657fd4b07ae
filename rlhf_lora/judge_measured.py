"""`rlhf-lora evaluate judge=NAME dataset=…`: a judge held against pairs that people have labelled, without any run.

What the figures mean: docs/judge_evaluation.md.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import config as configuration
from rlhf_lora import derive, registry, tables
from rlhf_lora.atomic import write_text
from rlhf_lora.contracts import Context
from rlhf_lora.derived_rows import with_pairs
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.judge_checks import check_words
from rlhf_lora.judge_figures import Judged, figures, kind_of
from rlhf_lora.judging.orders import Compared, compare, raised_by
from rlhf_lora.mini import bases
from rlhf_lora.plan import cache_folder
from rlhf_lora.progress import Progress
from rlhf_lora.records import Comparison, Data, Pair, Sample, named_seed
from rlhf_lora.stages.scoring import Scorer

Differences = Callable[[Sequence[Pair]], list[float | None]]
"""True value of the chosen answer minus the rejected one's; None where it is not known."""
MOST = 1000
"""Pairs that are asked where nobody says how many: every pair is two questions, and some judges cost money."""
AT_ONCE = 64
"""Pairs given to the judge at a time: enough to keep a server busy, few enough that progress moves."""


@dataclass(frozen=True)
class Measured:
    """What was found of a judge.

    Attributes:
        figures: as `judge_figures.figures`, with `judge`, `dataset`, `pairs_of_dataset`, `left_out` (rows and
            comparisons that gave no pair, by reason: people's ties among them), and `usage`, where the judge knows what it spent.
        rows: one per comparison, for a file.
    """

    figures: dict[str, Any]
    rows: list[dict[str, Any]]


def measure(*overrides: str, pairs: int | None = None, config_dir: Path | None = None) -> Measured:
    """Ask a judge about labelled pairs, each in both orders.

    Args:
        overrides: as of `train`: `judge=NAME judge.setting=…`, `dataset=NAME dataset.path=FILE`, `seed=`, `plugins=[FILE]`;
            `model.path=…` for a judge that reads the run's own base.
        pairs: at most so many, drawn by the seed; None = `MOST`.

    Raises:
        UserError: no judge, a dataset without pairs, or settings that are wrong.
        ContractError: the judge raised, or gave no verdicts. Stopped: its budget is spent.
    """
    config = configuration.compose(*overrides, config_dir=config_dir)
    if config.judge is None:
        raise ConfigError(
            "there is no judge to measure", where="rlhf-lora evaluate", fix="judge=NAME; for a run: rlhf-lora evaluate RUN"
        )  # fmt: skip
    if "seed" in config.dataset and config.dataset.seed is None:
        config.dataset.seed = config.seed
    judge = registry.build("judge", config.judge)
    dataset = registry.build("dataset", config.dataset)
    data: Data = with_pairs(dataset.load())
    every = pairs_of(data, config.dataset.name)
    chosen = drawn(every, MOST if pairs is None else pairs, config.seed)
    with _opened(judge, config, dataset) as asked:
        repeats = getattr(judge, "deterministic", True) or getattr(judge, "keeps_answers", False)
        judged = ask(asked, chosen, config.seed, config.judge.name, _gold_of(data), repeats)
        usage = _usage(asked)
    found = {"judge": config.judge.name, "dataset": config.dataset.name, "pairs_of_dataset": len(every)}
    left_out = Counter(row.reason for row in data.unused) + Counter(data.left_out)
    found |= figures(judged, config.seed) | ({"left_out": dict(left_out)} if left_out else {}) | usage
    return Measured(found, [row_of(one) for one in judged])


def pairs_of(data: Data, name: str) -> list[Pair]:
    """The labelled pairs of a dataset, its test set's too.

    Raises:
        DataError: it has none.
    """
    every = [*data.pairs, *(data.test.pairs if data.test is not None else ())]
    if not every:
        raise DataError(
            f"the dataset '{name}' has no compared answers, so there is nobody to agree with", where=f"dataset={name}",
            fix="give rows with chosen and rejected answers, rankings or ratings of several answers to a prompt (docs/data.md)",
        )  # fmt: skip
    return every


def drawn(pairs: Sequence[Pair], most: int, seed: int) -> list[Pair]:
    """`most` of the pairs, by lot, in their order; all of them where there are no more."""
    if most >= len(pairs):
        return list(pairs)
    places = random.Random(named_seed(seed, "judged pairs")).sample(range(len(pairs)), most)
    return [pairs[place] for place in sorted(places)]


def ask(
    judge: Any, pairs: Sequence[Pair], seed: int, name: str = "", gold: Differences | None = None, deterministic: bool = True
) -> list[Judged]:  # fmt: skip
    """Have an opened judge compare each pair in both orders; which answer is A at first is drawn by the seed.

    Args:
        gold: the true difference in value of pairs, where it is known.
        deterministic: it says the same of the same twice. One that does not is asked all over again, begun in the other order.

    Raises:
        ContractError: the judge raised, or gave no verdicts.
    """
    draw = random.Random(named_seed(seed, "which answer first"))
    firsts = [draw.random() < 0.5 for _ in pairs]
    comparisons = [
        Comparison(pair.prompt, *((pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)))
        for pair, first in zip(pairs, firsts, strict=True)
    ]
    compared: list[Compared] = []
    again: list[Compared | None] = []
    with Progress("judge", len(pairs)) as bar:
        for start in range(0, len(pairs), AT_ONCE):
            some = comparisons[start : start + AT_ONCE]
            compared += _compared(judge, some, name)
            again += [None] * len(some) if deterministic else _compared(judge, [one.swapped for one in some], name)
            bar.update(len(some))
    golds = gold(pairs) if gold else [None] * len(pairs)
    return [Judged(*parts) for parts in zip(pairs, compared, firsts, golds, again, strict=True)]


def row_of(judged: Judged) -> dict[str, Any]:
    """A comparison as a flat row: what was compared, how people and the judge decided, and each order as it was read."""
    first, second = judged.compared.first, judged.compared.second
    p, verdict = judged.p_chosen, judged.compared.verdict
    missing = next((kind for one in judged.verdicts if (kind := kind_of(one))), None)
    return {
        "prompt": judged.pair.prompt.text, "chosen": judged.pair.chosen, "rejected": judged.pair.rejected,
        "verdict": None if p is None else "tie" if p == 0.5 else "chosen" if p > 0.5 else "rejected",
        "probability_chosen": p, "flipped": judged.compared.flipped, "missing": missing, "reason": verdict.reason,
        "chosen_read_first": judged.chosen_first, "first": first.choice, "first_probability_a": first.probability_a,
        "second": second.choice if second else None, "second_probability_a": second.probability_a if second else None,
        "label": judged.pair.label, "gold_difference": judged.gold,
    }  # fmt: skip


def check_writable(path: Path) -> None:
    """Before anything is asked, and paid for.

    Raises:
        ConfigError: the folder is not there, or the file's name says neither JSON lines nor Parquet.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(
            f"{path} is neither JSON lines nor Parquet", where=f"--to {path}", fix="--to FILE.jsonl or FILE.parquet"
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"there is no folder {path.parent}", where=f"--to {path}", fix="make it, or give another file"
        )


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Rows to a Parquet file, or to JSON lines where the name ends in .jsonl; whole or not at all."""
    if path.suffix == ".parquet":
        tables.write(path, rows)
    else:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        write_text(path, "".join(lines).encode("utf-8", "replace").decode())


# --- the parts --------------------------------------------------------------------------------------------------------


def _compared(judge: Any, comparisons: Sequence[Comparison], name: str) -> list[Compared]:
    with raised_by(f"the judge '{name}'"):
        return compare(judge, comparisons)


@contextmanager
def _opened(judge: Any, config: DictConfig, dataset: Any) -> Iterator[Any]:
    """The judge, opened; closed in the end. One that reads the run's own base gets it, without any adapter."""
    backbone = _backbone(config, dataset, judge) if getattr(judge, "needs_backbone", False) else None
    asked = config.hardware.device
    device = ("cuda" if derive.has_cuda() else "cpu") if asked == "auto" else asked
    ctx = Context(
        seed=config.seed, cache_dir=cache_folder(), backbone=backbone, chat=getattr(backbone, "chat", None), device=device
    )  # fmt: skip
    source = judge.open(ctx) if callable(getattr(judge, "open", None)) else judge
    if callable(getattr(source, "close", None)):
        with closing(source):
            yield source
    else:
        yield source


def _backbone(config: DictConfig, dataset: Any, judge: Any) -> Any:
    """The base that `model.…` describes; the embedded one of the dataset's task where no model is given."""
    from dataclasses import replace

    from rlhf_lora.backbone import Backbone

    mini = derive.mini_settings(config, dataset)
    derive.derive(config, derive.shape_of(config, mini).hidden, derive.max_positions(config, mini), dataset)
    spec = derive.model_spec(config)
    check_words(judge, spec, mini)
    if mini is not None:
        spec = replace(spec, path=str(bases.ensure(cache_folder(), mini)))
    hardware = config.hardware
    return Backbone(
        spec, micro_batch=hardware.micro_batch, rollout_batch=hardware.rollout_batch, logprob_chunk=hardware.logprob_chunk
    )  # fmt: skip


def _gold_of(data: Data) -> Differences | None:
    """By the reward that the dataset calls its truth."""
    name = data.gold
    if name is None:
        return None
    scorer = Scorer(registry.build("reward", {"name": name}), name)

    def differences(pairs: Sequence[Pair]) -> list[float | None]:
        sides = [
            scorer(
                [
                    Sample(p.prompt.text, text, messages=p.prompt.messages, columns=p.prompt.columns)
                    for p, text in answers
                ]
            )
            for answers in ([(p, p.chosen) for p in pairs], [(p, p.rejected) for p in pairs])
        ]
        return [None if a.value is None or b.value is None else a.value - b.value for a, b in zip(*sides, strict=True)]

    return differences


def _usage(judge: Any) -> dict[str, Any]:
    """What the judge spent, where it or the listener that it asks knows: `usage()`, or `metrics()` under `judge/…`."""
    for source in (judge, getattr(judge, "listener", None)):
        for name in ("usage", "metrics"):
            found = told() if callable(told := getattr(source, name, None)) else None
            if isinstance(found, Mapping):
                return {"usage": {str(key).removeprefix("judge/"): value for key, value in found.items()}}
    return {}
