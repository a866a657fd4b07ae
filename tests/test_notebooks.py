"""Notebooks: what is committed is what its source gives, and a kernel can train again and again.

`make notebooks` writes them; the slow tests run them.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_notebooks import FOLDER, NAMES, execute
from tiny import overrides

from rlhf_lora import compose, progress, start, train
from rlhf_lora.errors import UserError
from rlhf_lora.notebook import plot_frontier, plot_training, read_sweep
from rlhf_lora.run_folder import RunFolder

SMALL = ("optimizer.updates=2", "optimizer.prompts_per_update=6", "optimizer.minibatch_size=3", "optimizer.epochs=1",
         "rollout.max_new_tokens=5", "evaluation.prompts=4", "reward=length")  # fmt: skip
MACHINE = re.compile(r"/(?:home|Users|root|tmp|var|opt|usr|mnt|work)/|[A-Z]:\\\\|site-packages")
PATHS_OF_A_KERNEL = "ipykernel_"


def book(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def code(name: str) -> list[dict[str, Any]]:
    return [cell for cell in book(name)["cells"] if cell["cell_type"] == "code"]


# --- what is committed ------------------------------------------------------------------------------------------------


def test_every_source_has_its_notebook_and_no_notebook_is_without_one():
    assert {path.stem for path in FOLDER.glob("*.py")} == {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_cells_of_its_source(name: str):
    jupytext = pytest.importorskip("jupytext")
    source = jupytext.read(FOLDER / f"{name}.py").cells
    assert [(c["cell_type"], c["source"]) for c in book(name)["cells"]] == [(c.cell_type, c.source) for c in source], (
        "run make notebooks"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_run_in_order_and_no_cell_failed_or_complained(name: str):
    assert [cell["execution_count"] for cell in code(name)] == list(range(1, len(code(name)) + 1))
    outputs = [out for cell in code(name) for out in cell["outputs"]]
    assert not [out for out in outputs if out["output_type"] == "error" or out.get("name") == "stderr"]
    assert any("image/svg+xml" in out.get("data", {}) for out in outputs), "a plot"
    assert any("text/html" in out.get("data", {}) for out in outputs), "a table"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_small_and_tells_nothing_of_the_machine_it_ran_on(name: str):
    file = FOLDER / f"{name}.ipynb"
    text = file.read_text(encoding="utf-8")
    assert file.stat().st_size < 300_000
    assert not MACHINE.findall(text)
    assert PATHS_OF_A_KERNEL not in text
    assert "\\u001b" not in text, "colours of a terminal"
    assert "\x1b" not in text
    lines = max(
        len(str(out.get("data", {}).get("text/plain", "")).splitlines()) for c in code(name) for out in c["outputs"]
    )
    assert lines < 100
    assert set(book(name)["metadata"]) == {"kernelspec", "language_info"}, "no versions that change"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_that_its_model_is_tiny(name: str):
    assert "tiny" in "".join(book(name)["cells"][0]["source"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_notebooks_run(tmp_path: Path):
    pytest.importorskip("nbclient")
    for name in NAMES:  # sharing a cache, as make notebooks does
        for cell in execute(name, tmp_path).cells:
            assert not [out for out in cell.get("outputs", []) if out.get("name") == "stderr"]


# --- a kernel trains again and again ----------------------------------------------------------------------------------


def tensors() -> int:
    """Elements of all tensors that are alive."""
    import torch

    gc.collect()
    return sum(thing.numel() for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


@pytest.mark.slow
def test_runs_that_ended_hold_no_model_though_somebody_holds_the_runs(tiny_base: Path, tmp_path: Path):
    runs = [train(compose(*overrides(tiny_base, tmp_path / "0", *SMALL)))]  # what libraries keep, they keep now
    before = tensors()
    for i in (1, 2):
        runs.append(train(compose(*overrides(tiny_base, tmp_path / str(i), *SMALL))))
        assert tensors() <= before + 1000
    assert [run.summary["status"] for run in runs] == ["finished"] * 3
    assert runs[1].step() is None, "a finished run stays finished"
    assert runs[1].finish() is runs[1]


@pytest.mark.slow
def test_a_run_left_half_way_gives_everything_back_and_goes_on_from_there(tiny_base: Path, tmp_path: Path):
    settings = overrides(tiny_base, tmp_path / "run", *SMALL)
    whole = train(compose(*overrides(tiny_base, tmp_path / "whole", *SMALL)))
    before = tensors()
    with start(compose(*settings)) as run:
        run.step()
        assert tensors() > before + 10_000, "a model is there"
    assert tensors() <= before + 1000
    assert run.summary["status"] == "interrupted"
    run.close()  # again: nothing
    other = start(compose(*settings))  # its folder is free
    other.close()
    assert run.step() is not None, "the same object takes it up again"
    run.finish()
    assert run.summary["status"] == "finished"
    adapters = [r.folder / "adapters" / "policy" / "adapter_model.safetensors" for r in (run, whole)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes(), "as if it had not been left"


@pytest.mark.slow
def test_an_update_that_was_broken_off_is_made_again_from_the_last_checkpoint(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = train(compose(*overrides(tiny_base, tmp_path / "whole", *SMALL)))
    run = start(compose(*overrides(tiny_base, tmp_path / "run", *SMALL)))
    run.step()
    update = type(run._loop.updater).update

    def stop(self: Any, *given: Any) -> None:
        update(self, *given)
        raise KeyboardInterrupt  # the notebook's stop button, once the weights have moved

    with monkeypatch.context() as patch:
        patch.setattr(type(run._loop.updater), "update", stop)
        with pytest.raises(KeyboardInterrupt):
            run.step()
    run.finish()
    adapters = [r.folder / "adapters" / "policy" / "adapter_model.safetensors" for r in (run, whole)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert [row["step"] for row in RunFolder(run.folder).metrics("policy")] == [1, 2]


def test_the_public_name_evaluate_is_no_module_and_can_be_called():
    from rlhf_lora import evaluate

    with pytest.raises(UserError, match="nowhere"):
        evaluate("nowhere")


# --- what a cell shows ------------------------------------------------------------------------------------------------


class Kernel:
    """IPython's shell as far as progress looks: what is under the cells, by display id."""

    def __init__(self) -> None:
        self.execution_count, self.kernel = 1, object()
        self.display_pub = self
        self.shown: dict[str, str] = {}

    def publish(self, data: dict[str, str], _metadata: Any, *, transient: dict[str, str], update: bool) -> None:
        assert update == (transient["display_id"] in self.shown)
        self.shown[transient["display_id"]] = data["text/plain"]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel()
    now = [100.0]
    monkeypatch.delenv(progress.QUIET, raising=False)
    monkeypatch.setattr(progress, "_block", None)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: found))
    found.now = now  # type: ignore[attr-defined]
    return found


def test_in_a_notebook_a_cell_has_one_block_in_which_each_loop_keeps_its_line(
    kernel: Any, capsys: pytest.CaptureFixture[str]
):
    progress.stage("sft", "80 demonstrations")
    for _ in progress.track(1000, "sft"):
        kernel.now[0] += 1
    for _ in progress.track(3, "rollout", inner=True):
        kernel.now[0] += 20
    progress.note("job 0")
    progress.note("job 0\njob 1")
    assert list(kernel.shown.values()) == ["── sft · 80 demonstrations\nsft 1000/1000  in 16:40\njob 0\njob 1"]
    progress.note("")
    kernel.execution_count = 2
    progress.stage("evaluation")
    assert list(kernel.shown.values()) == ["── sft · 80 demonstrations\nsft 1000/1000  in 16:40", "── evaluation"]
    assert capsys.readouterr() == ("", "")


def test_plots_stand_alone_and_can_be_drawn_before_there_is_anything_to_draw():
    history = [{"objective/scores": 1.0, "objective/kl": 0.0}, {"objective/scores": 2.0, "objective/kl": 0.5}]
    job = {"status": "finished", "reward": "length", "job": 0, "kl": 1.0, "score": 2.0, "win_rate": 0.7}
    for figure in (plot_training([]), plot_training(history[:1]), plot_training(history), plot_frontier([job])):
        svg = figure._repr_svg_()
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "<style>" in svg
        assert "class=" in svg
    with pytest.raises(ValueError, match="no job"):
        plot_frontier([job | {"kl": None}])


def test_a_folder_that_holds_no_sweep_is_no_empty_table(tmp_path: Path):
    with pytest.raises(UserError, match="holds no sweep"):
        read_sweep(tmp_path / "nowhere")
