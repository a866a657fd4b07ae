"""Sweeps: what is a job, which are done, what is shown. Children are played here; `test_sweep_runs.py` has real ones."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny import few, jsonl, overrides

from rlhf_lora import cli
from rlhf_lora.config import compose
from rlhf_lora.plan import make_plan
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.sweep import jobs, table
from rlhf_lora.sweep.axes import read
from rlhf_lora.sweep.jobs import SweepFolder, quoted
from rlhf_lora.sweep.runner import Sweep
from rlhf_lora.taking_up import claim

ROOT = Path(__file__).resolve().parents[2]
NO_OPTIONS = dict.fromkeys


class Children:
    """Plays the child processes: a run folder with a summary. `fails` says how a job ends instead.

    `gold`: the truth is known; `unscored`: the jobs for which it could tell nothing.
    `whole`: the run folder is what `train` would make, configuration and inputs; that takes a second.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails: dict[str, tuple[int, str]] = {}
        self.stop_after: int | None = None
        self.whole = False
        self.gold = True
        self.unscored: set[str] = set()

    def __call__(self, command: list[str], log: Path, asked: Any) -> int:
        words = command[command.index("train") + 1 :]
        given = dict(word.split("=", 1) for word in words if "=" in word)
        folder = RunFolder(log.with_suffix(""))
        assert given["run_dir"] == quoted(str(folder.path))
        self.ran.append(folder.path.name)
        log.touch()
        for pattern, (code, said) in self.fails.items():
            if pattern in words:
                log.write_text(f"Traceback …\n{said}\n")
                return code
        if self.whole:
            own = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
            claim(make_plan(compose(*(w for w in words if "=" in w), config_dir=own)))[0].release()
        else:
            folder.path.mkdir(exist_ok=True)
            (folder.path / "config.yaml").write_text(json.dumps(given))
        if self.stop_after is not None and len(self.ran) > self.stop_after:
            asked.number = signal.SIGTERM
            return 143
        beta, seed = float(given["optimizer.beta"]), int(given.get("seed", 0))
        rate = round(0.9 - beta - 0.01 * seed, 3)
        figures = {"score_mean": 2 - beta, "win_rate_vs_reference": rate, "win_rate_ci95": [rate - 0.1, rate + 0.1]}
        policy = figures | {"kl_to_reference": 1 / beta}
        summary = {"status": "finished", "optimizer": "ppo", "reward": "length", "seed": seed, "policy": policy}
        if self.gold and folder.path.name not in self.unscored:
            summary["gold"] = figures
        folder.write_summary(summary | {"seconds": {"total": 61.0}})
        return 0


@pytest.fixture
def children(monkeypatch) -> Children:
    played = Children()
    monkeypatch.setattr(jobs, "launch", played)
    return played


def sweep(base: Path, folder: Path, *more: str) -> int:
    return cli.run(["train", *overrides(base, folder, "reward=length", *more), "-m"])


def jobs_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "summary.json").read_text())["jobs"]


# --- what is a job ----------------------------------------------------------------------------------------------------


def test_hydras_sweep_syntax_makes_a_grid_whose_last_axis_moves_fastest():
    words = ["optimizer=ppo,dpo", "seed=range(0,3)", "splits={sft: 20, final: 5}", "stages=[sft,policy]", "x='a,b'"]
    request = read(words, NO_OPTIONS)
    assert [" ".join(job) for job in request.grid()] == [
        f"optimizer={o} seed={s}" for o in ("ppo", "dpo") for s in (0, 1, 2)
    ]
    assert request.fixed == tuple(words[2:])


def test_a_glob_is_over_the_options_of_its_group():
    request = read(["reward=glob(l*)"], {"reward": ["learned", "length", "mix"]}.get)
    assert list(request.grid()) == [("reward=learned",), ("reward=length",)]


def test_nothing_to_sweep_is_one_job():
    assert list(read(["seed=1"], NO_OPTIONS).grid()) == [()]


def test_the_command_line_wins_over_a_preset():
    request = read(["sweep=beta", "optimizer.beta=0.3", "sweep.objective=policy.score_mean"], NO_OPTIONS)
    assert request.fixed == ("optimizer.beta=0.3",)
    assert [axis.key for axis in request.axes] == ["optimizer"]
    assert request.settings.objective == "policy.score_mean"


@pytest.mark.slow
@pytest.mark.parametrize("name", [file.stem for file in sorted((ROOT / "conf" / "sweep").glob("*.yaml"))])
def test_every_preset_of_the_kit_makes_jobs_that_compose(name):
    request = read([f"sweep={name}"], NO_OPTIONS)
    grid = list(request.grid()) if request.settings.sampler == "grid" else [()]
    for job in grid:
        compose(*request.fixed, *job)


@pytest.mark.parametrize(
    ("words", "told"),
    few(
        [
            (["run_dir=a,b"], "cannot be swept"),
            (["optimizer.beta=interval(0,1)"], "sweep.sampler=optuna"),
            (["sweep=bet"], "did you mean 'beta'"),
            (["sweep.trails=3"], "did you mean 'trials'"),
            (["sweep.trials=many"], "sweep.trials is 'many'"),
            (["sweep.trials=0"], "0 trials"),
            (["sweep.sampler=optun"], "did you mean 'optuna'"),
            (["sweep.direction=up"], "no direction 'up'"),
            (["seed=range(3,3)"], "nothing to sweep over"),
            (["reward=glob(zzz*)"], "nothing to sweep over"),
            (["seed=choice(1,"], "cannot be read"),
            (["optimizer=ppo,dop"], "did you mean 'dpo'"),
            (["optimizer.beta=0.1,-1"], "job optimizer.beta=-1"),
            (["optimizer=ppo,dpo", "optimizer.clip=0.2"], "job optimizer=dpo"),
            (["optimizer.beta=0.1,often"], "job optimizer.beta=often"),
            (["nonsense=1,2"], "there is no group or setting 'nonsense'"),
            (["sweep.objective=gold.win_rat"], "did you mean 'gold.win_rate_vs_reference'"),
            (["sweep.objective=gold.win_rate_ci95"], "an interval is two numbers"),
            (["sweep.objective=gold"], "not a number"),
            (["sweep.objective=optimizer"], "no job has a figure 'optimizer'"),
            (["sweep.objective=reward_model.accuracy"], "a reward model is not trained"),
            (["sweep.objective=["], "cannot be read"),
        ],
        6,
    ),
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_job_is_refused_before_the_first_begins(words, told, tiny_base, tmp_path, children, capsys):
    given = overrides(tiny_base, tmp_path / "sweep", "reward=length")
    given = [o for o in given if not (o.startswith("run_dir=") and words[0].startswith("run_dir="))]
    given = [o for o in given if not (words[0] == "optimizer=ppo,dpo" and o.startswith("optimizer."))]
    assert cli.run(["train", *given, *words, "-m"]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert children.ran == []
    assert list(tmp_path.iterdir()) == []


def test_several_values_without_m_say_how(capsys):
    assert cli.run(["train", "seed=0,1"]) == 2
    assert "add -m" in capsys.readouterr().err
    assert cli.run(["train", "sweep=beta"]) == 2
    assert "add -m" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["beta.yaml", "runs"])
def test_a_folder_of_other_things_is_refused(name, tiny_base, tmp_path, children, capsys):
    (tmp_path / "sweep" / name).mkdir(parents=True)
    assert sweep(tiny_base, tmp_path / "sweep", "seed=0,1") == 2
    assert "holds other files" in capsys.readouterr().err
    assert children.ran == []


def test_a_single_run_is_no_sweep(tiny_base, tmp_path, children, capsys):
    claim(make_plan(compose(*overrides(tiny_base, tmp_path / "run", "reward=length"))))[0].release()
    assert sweep(tiny_base, tmp_path / "run", "seed=0,1") == 2
    assert "is a single run" in capsys.readouterr().err


# --- which are done ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_sweep_again_does_nothing_and_a_changed_one_adds(tiny_base, tmp_path, children):
    folder = tmp_path / "a sweep's folder"
    assert sweep(tiny_base, folder, "optimizer.beta=0.1,0.2", f"run_dir={quoted(str(folder))}") == 0
    assert sweep(tiny_base, folder, "optimizer.beta=0.1,0.2", f"run_dir={quoted(str(folder))}") == 0
    assert children.ran == ["0", "1"]
    assert sweep(tiny_base, folder, "optimizer.beta=0.3,0.2,0.1", f"run_dir={quoted(str(folder))}") == 0
    assert children.ran == ["0", "1", "2"]  # by configuration, not by number
    assert [row["changes"]["optimizer.beta"] for row in jobs_of(folder)] == ["0.1", "0.2", "0.3"]


@pytest.mark.slow
def test_jobs_are_found_by_their_folders_when_the_list_is_lost(tiny_base, tmp_path, children):
    children.whole = True
    sweep(tiny_base, tmp_path / "s", "seed=0,1")
    (tmp_path / "s" / "sweep.json").unlink()
    (tmp_path / "s" / "summary.json").unlink()
    assert sweep(tiny_base, tmp_path / "s", "seed=1,0") == 0
    assert children.ran == ["0", "1"]


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_where_it_was(tiny_base, tmp_path, children, capsys):
    children.stop_after = 1
    assert sweep(tiny_base, tmp_path / "s", "seed=0,1,2") == 143
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(tmp_path / "s")
    assert "the same command goes on" in captured.err
    assert [row["status"] for row in jobs_of(tmp_path / "s")] == ["finished", "interrupted", "waiting"]
    finished = (tmp_path / "s" / "0" / "summary.json").stat().st_mtime_ns
    children.stop_after, children.ran = None, []
    assert sweep(tiny_base, tmp_path / "s", "seed=0,1,2") == 0
    assert children.ran == ["1", "2"]
    assert (tmp_path / "s" / "0" / "summary.json").stat().st_mtime_ns == finished
    assert {row["status"] for row in jobs_of(tmp_path / "s")} == {"finished"}


def test_equal_jobs_are_one(tiny_base, tmp_path, children, capsys):
    assert sweep(tiny_base, tmp_path / "s", "optimizer.beta=0.1,0.10") == 0
    assert children.ran == ["0"]
    assert "1 of 2 jobs are the same as another" in capsys.readouterr().err


@pytest.mark.slow
def test_changed_data_makes_another_job(tiny_base, tmp_path, children):
    rows = [{"prompt": f"please bring {i}", "chosen": "certainly tea", "rejected": f"no {i}"} for i in range(80)]
    small = ("dataset=jsonl", f"dataset.path={jsonl(tmp_path / 'p.jsonl', rows)}", "seed=0,1")
    assert sweep(tiny_base, tmp_path / "s", *small) == 0
    jsonl(tmp_path / "p.jsonl", rows[:-1])
    assert sweep(tiny_base, tmp_path / "s", *small) == 0
    assert children.ran == ["0", "1", "2", "3"]


def test_two_sweeps_do_not_share_a_folder(tiny_base, tmp_path, children, capsys):
    first = SweepFolder(tmp_path / "s")
    first.claim()
    assert sweep(tiny_base, tmp_path / "s", "seed=0,1") == 2
    assert "another sweep works in" in capsys.readouterr().err
    first.release()


# --- a job that fails is a result -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said", "status", "error"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried", "out of memory", "CUDA out of memory. Tried"),
        pytest.param(-9, "loading", "out of memory", "killed by SIGKILL", marks=pytest.mark.slow),
        pytest.param(
            2, "rlhf-lora: the file is gone\n  where: here", "failed", "the file is gone", marks=pytest.mark.slow
        ),
        pytest.param(
            1,
            "ZeroDivisionError: division by zero",
            "failed",
            "ZeroDivisionError: division by zero",
            marks=pytest.mark.slow,
        ),
        pytest.param(0, "done", "failed", "without a summary", marks=pytest.mark.slow),
    ],
)
def test_a_job_that_fails_is_noted_and_the_sweep_goes_on(
    code, said, status, error, tiny_base, tmp_path, children, capsys
):
    children.fails["seed=1"] = (code, said)
    assert sweep(tiny_base, tmp_path / "s", "seed=0,1,2") == 3
    assert children.ran == ["0", "1", "2"]
    failed = jobs_of(tmp_path / "s")[-1]
    assert (failed["job"], failed["status"]) == (1, status)
    assert error in failed["error"]
    assert failed["exit_code"] == {-9: 137, 0: 1}.get(code, code)
    assert error in capsys.readouterr().out
    children.fails, children.ran = {}, []
    assert sweep(tiny_base, tmp_path / "s", "seed=0,1,2") == 0
    assert children.ran == ["1"]
    assert "error" not in jobs_of(tmp_path / "s")[-1]


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_table_is_sorted_shows_what_differs_and_its_folder_comes_last(tiny_base, tmp_path, children, capsys):
    sweep(tiny_base, tmp_path / "s", "optimizer.beta=0.2,0.1", "evaluation.show=3")
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[-1] == str(tmp_path / "s")
    assert lines[0].split() == "job optimizer.beta gold win rate win rate score KL time status".split()
    assert lines[1].split() == ["1", "0.1", "0.800", "[0.700,", "0.900]", "0.800", "[0.700,", "0.900]", "1.9", "10", "1:01",
                                "finished"]  # fmt: skip
    assert lines[2].startswith("0    0.2")
    assert captured.err.count("job  optimizer.beta") == 2  # after each job
    assert "evaluation.show" not in captured.out


def test_an_objective_sorts_and_minimize_turns_it_round(tiny_base, tmp_path, children):
    more = ("sweep.objective=policy.kl_to_reference", "sweep.direction=minimize")
    sweep(tiny_base, tmp_path / "s", "optimizer.beta=0.1,0.2", *more)
    assert [row["objective"] for row in jobs_of(tmp_path / "s")] == [5.0, 10.0]


def test_a_sweep_is_read_back_as_rows(tiny_base, tmp_path, children):
    sweep(tiny_base, tmp_path / "s", "optimizer.beta=0.1,0.2")
    best = table.read_sweep(tmp_path / "s")[0]
    assert (best["job"], best["gold_win_rate"], best["kl"], best["seconds"]) == (0, 0.8, 10.0, 61.0)
    assert best["changes"] == {"optimizer.beta": "0.1"}


def test_what_was_not_measured_is_absent_and_shown_as_a_dash():
    rows = [
        {"job": 0, "status": "finished", "changes": {"a": "1"}, "win_rate": 0.5, "seconds": 3.0},
        {"job": 1, "status": "failed", "changes": {"a": "2"}, "seconds": 0.0, "error": "no"},
    ]
    header, cells = table.cells(rows)
    assert header == ["job", "a", "win rate", "time", "status"]
    assert cells[1] == ["1", "2", "-", "-", "failed: no"]


def test_settings_are_compared_over_their_seeds():
    def job(number, beta, seed, rate, status="finished"):
        figures = {"win_rate": rate, "kl": 10 * rate} if status == "finished" else {}
        return {"job": number, "status": status, "changes": {"beta": beta, "seed": seed}, "seconds": 1.0, **figures}

    rows = [job(0, "0.1", "0", 0.5), job(1, "0.1", "1", 0.7), job(2, "0.2", "0", 0.9), job(3, "0.2", "1", 0, "failed")]
    best, other = table.over_seeds(rows)
    assert (best["changes"], best["seeds"]) == ({"beta": "0.2"}, 1)  # a failed job is no figure
    assert other["win_rate"] == {"mean": pytest.approx(0.6), "lowest": 0.5, "highest": 0.7}
    header, lines = table.over_seeds_cells(rows)
    assert header == ["beta", "seeds", "win rate: mean, range", "KL: mean, range"]
    assert lines[1] == ["0.1", "2", "0.600 (0.500 to 0.700)", "6.000 (5.000 to 7.000)"]
    assert table.over_seeds([rows[0], rows[2]]) == []  # nothing tried twice


@pytest.mark.slow
def test_the_page_stands_alone_and_escapes(tiny_base, tmp_path, children):
    children.fails["seed=1"] = (1, "Error: <script>alert(1)</script>")
    sweep(tiny_base, tmp_path / "s", "seed=0,1,2")
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "<script" not in page
    assert "Settings over seeds" in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page.replace("http-equiv", "")
    assert 'href="0/report.html"' in page
    assert 'href="1/report.html"' not in page
    assert page.count("<circle") == 2


@pytest.mark.slow
def test_presets_of_ones_own(tiny_base, tmp_path, children):
    own = tmp_path / "mine"
    (own / "sweep").mkdir(parents=True)
    (own / "experiment").mkdir()
    (own / "sweep" / "two.yaml").write_text("overrides: {experiment: 'short', optimizer.beta: '0.1,0.2'}\n")
    (own / "experiment" / "short.yaml").write_text("# @package _global_\nevaluation: {show: 1}\n")
    children.whole = True
    given = [o for o in overrides(tiny_base, tmp_path / "s", "reward=length") if "optimizer.beta" not in o]
    assert cli.run(["train", "--config-dir", str(own), "sweep=two", *given, "--multirun"]) == 0
    assert SweepFolder(tmp_path / "s").path.joinpath("1", "config.yaml").read_text().count("show: 1\n") == 1


# --- Optuna -----------------------------------------------------------------------------------------------------------


def search(base: Path, folder: Path, trials: int, *more: str) -> int:
    beta = more or ("optimizer.beta=tag(log,interval(0.01,0.5))",)
    return sweep(base, folder, *beta, "sweep.sampler=optuna", f"sweep.trials={trials}")


@pytest.mark.slow
def test_optuna_chooses_and_goes_on_and_finishes_what_was_interrupted(tiny_base, tmp_path, children):
    assert search(tiny_base, tmp_path / "straight", 5) == 0
    children.ran, children.stop_after = [], 2
    assert search(tiny_base, tmp_path / "s", 5) == 143
    children.stop_after = None
    assert search(tiny_base, tmp_path / "s", 5) == 0
    assert children.ran == ["0", "1", "2", "2", "3", "4"]
    assert jobs_of(tmp_path / "s") == jobs_of(tmp_path / "straight")
    assert search(tiny_base, tmp_path / "s", 6) == 0
    assert children.ran == ["0", "1", "2", "2", "3", "4", "5"]


@pytest.mark.slow
def test_a_trial_that_cannot_be_composed_is_a_failed_job(tiny_base, tmp_path, children):
    axes = (
        "optimizer.prompts_per_update=choice(12,4)",
        "optimizer.minibatch_size=choice(4,12)",
    )  # 4 with 12 is refused
    assert search(tiny_base, tmp_path / "s", 8, *axes) == 3
    assert any("job " in row.get("error", "") and row["exit_code"] == 2 for row in jobs_of(tmp_path / "s"))


@pytest.mark.slow
def test_optuna_counts_a_failed_job_as_a_trial(tiny_base, tmp_path, children):
    children.fails["seed=1"] = (1, "CUDA out of memory")
    assert search(tiny_base, tmp_path / "s", 5, "seed=choice(0,1)") == 3
    assert {row["status"] for row in jobs_of(tmp_path / "s")} == {"finished", "out of memory"}
    assert sorted(children.ran) == ["0", "1"]  # five trials of two jobs
    assert search(tiny_base, tmp_path / "s", 5, "seed=choice(0,1)") == 3
    assert sorted(children.ran) == ["0", "1"]


@pytest.mark.slow
def test_an_objective_that_no_summary_has_names_those_there_are(tiny_base, tmp_path, children, capsys):
    assert search(tiny_base, tmp_path / "s", 3, "seed=choice(0,1)", "sweep.objective=gold.winrate") == 2
    assert "gold.win_rate_vs_reference" in capsys.readouterr().err
    assert children.ran == []


def without_truth(base: Path, folder: Path, *more: str) -> list[str]:
    rows = [{"prompt": f"please bring {i}", "chosen": "certainly tea", "rejected": f"no {i}"} for i in range(80)]
    file = jsonl(folder.parent / "p.jsonl", rows)
    given = overrides(base, folder, "reward=length", "dataset=jsonl", f"dataset.path={file}", *more)
    return ["train", *(o for o in given if not o.startswith("optimizer.beta=")), "-m"]


@pytest.mark.slow
def test_a_search_without_a_truth_goes_by_the_runs_own_reward(tiny_base, tmp_path, children):
    children.gold = False
    assert cli.run(without_truth(tiny_base, tmp_path / "s", "sweep=beta_optuna", "sweep.trials=2")) == 0
    assert children.ran == ["0", "1"]
    journal = (tmp_path / "s" / "optuna.journal").read_text()
    assert "policy.win_rate_vs_reference" in journal
    assert [row["win_rate"] for row in jobs_of(tmp_path / "s")] == sorted(
        (row["win_rate"] for row in jobs_of(tmp_path / "s")), reverse=True
    )


@pytest.mark.parametrize("sampler", ["grid", "optuna"])
def test_a_truth_that_the_data_do_not_have_is_no_objective(sampler, tiny_base, tmp_path, children, capsys):
    more = ("sweep.objective=gold.score_mean", f"sweep.sampler={sampler}", "seed=choice(0,1)")
    assert cli.run(without_truth(tiny_base, tmp_path / "s", *more, "optimizer.beta=0.1")) == 2
    assert "the truth is not known for this data" in capsys.readouterr().err
    assert children.ran == []
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_search_wants_a_figure_that_every_job_has_and_a_table_that_some_have(tiny_base, tmp_path, children, capsys):
    wanted = ("reward=length,learned", "sweep.objective=reward_model.accuracy")
    assert sweep(tiny_base, tmp_path / "s", *wanted) == 0
    assert len(children.ran) == 2
    assert search(tiny_base, tmp_path / "t", 2, *wanted) == 2
    assert "not every job has a figure 'reward_model.accuracy'" in capsys.readouterr().err
    assert len(children.ran) == 2


@pytest.mark.slow
def test_a_finished_job_without_the_figure_is_a_failed_trial_and_the_search_goes_on(
    tiny_base, tmp_path, children, capsys
):
    children.unscored = {"0"}
    assert search(tiny_base, tmp_path / "s", 3) == 0
    assert children.ran == ["0", "1", "2"]
    assert "job 0 has no figure gold.win_rate_vs_reference" in capsys.readouterr().err
    assert search(tiny_base, tmp_path / "s", 3) == 0
    assert children.ran == ["0", "1", "2"]


@pytest.mark.parametrize("name", few(["gold", "optimizer", "policy.win_rate_ci95", "nothing.there"], 1))
def test_what_is_no_number_sorts_no_table(name, tiny_base, tmp_path, children):
    sweep(tiny_base, tmp_path / "s", "optimizer.beta=0.2,0.1")
    rows = table.rows(SweepFolder(tmp_path / "s"), name)
    assert [row["job"] for row in rows] == [0, 1]
    assert not any("objective" in row for row in rows)


def test_without_optuna_the_message_says_what_to_install(tiny_base, tmp_path, children, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert search(tiny_base, tmp_path / "s", 3) == 2
    assert 'pip install "rlhf-lora[optuna]"' in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_checked_sweep_has_written_nothing(tiny_base, tmp_path):
    given = overrides(tiny_base, tmp_path / "s", "reward=length", "seed=0,1")
    assert len(Sweep(given).wanted) == 2
    assert list(tmp_path.iterdir()) == []
