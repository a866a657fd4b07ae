"""The house holds: imports go down, plugins come in by the door, nothing heavy is loaded early, the wheel is whole.

Everything is read off the tree, so a new module is covered the day it is written. A module of a new name needs a line
in `FLOORS`.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "records errors progress atomic plain tables interrupts markup metrics_file software jinja_template": 0,
    "contracts registry plugin_table doors scores reward_calls reward_worker reward_tree": 1,
    "sandbox": 0,
    "model_spec loading backbone adapters chat bare_tokenizer derived_rows splits memory adamw objectives padding testing mini": 2,
    "train_settings token_rows trainers trainer_checkpoints dpo_trainer kto_trainer sft_trainer": 2,
    "comparison length_control best_of_n against answer_sets": 2,
    "labels": 1,
    "judging row_file comparison_rows revising mending principles revised_rows": 2,
    "ai_labels feedback_checks feedback_plan feedback_text judge_checks": 3,
    "user_presets": 0,
    "schema hydra_errors config honoured controls derive sources plan plan_checks plan_view plan_tokens reward_labels": 3,
    "row_source round_checks evaluation_checks plan_notes plan_stages turns": 3,
    "data_view data_lengths data_show": 3,
    "environment run_folder checkpoints stage_cache checks plugins": 3,
    "stages": 4,
    "file_stages made_rows off_policy rounds refresh final_evaluation policy_loop": 5,
    "assembly pipeline adapter_stages taking_up evaluation held_out midway report verify": 5,
    "judge_figures judge_measured finished_run": 5,
    "sweep": 5,
    "judge_verb chat_verb": 6,
    "cli plugin_verbs notebook __main__ completion completion_index help_texts summary_text": 6,
}
FLOOR = {name: floor for names, floor in FLOORS.items() for name in names.split()}
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate", "wandb", "matplotlib"}
FORBIDDEN = {
    r"torch\.load|load_pickle": "reads pickles",
    r"(pickle|cloudpickle|dill|joblib|marshal|shelve)(\..*)?": "reads pickles",
    r"eval|exec|compile|__import__": "runs text",
    r"(hydra\.utils\.)?(instantiate|call|get_class|get_method|get_object)": "lets a config name code to run",
    r"trl\.experimental.*": "vanishes between minor releases",
}
# what is imported under another name than it is installed under
DISTRIBUTION = {"hydra": "hydra-core", "yaml": "pyyaml"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "rlhf_lora" else ("rlhf_lora", *parts))


FILES = {
    module_name(file): file for top in ("rlhf_lora", "plugins", "conf") for file in sorted((ROOT / top).rglob("*.py"))
}
CORE = [name for name in FILES if not f"{name}.".startswith(("rlhf_lora.conf.", "rlhf_lora.plugins."))]
PLUGINS = [name for name in FILES if name.startswith("rlhf_lora.plugins")]
MODULES = [pytest.param(name, id=name) for name in FILES]


def floor(module: str) -> int:
    """0 to 6. The package's own `__init__` is its front door: it belongs to floor 1, whose names it gives out."""
    parts = module.split(".")
    return 1 if len(parts) == 1 else FLOOR.get(parts[1], 6)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imports(module: str, node: ast.AST | None = None, *, typing: bool = True) -> Iterator[tuple[str, int]]:
    """(imported module, line) of every import, those inside functions too; `from x import y` gives x.y if that is one.

    `typing=False` leaves out what stands under `if TYPE_CHECKING`.
    """
    for child in ast.iter_child_nodes(node or tree(module)):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = absolute(module, child)
            for alias in child.names:
                yield (f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base), child.lineno
        elif isinstance(child, ast.If) and not typing and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        else:
            yield from imports(module, child, typing=typing)


def absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def ours(module: str, *, typing: bool = True) -> Iterator[tuple[str, int]]:
    return ((name, line) for name, line in imports(module, typing=typing) if name.split(".")[0] == "rlhf_lora")


# --- floors -----------------------------------------------------------------------------------------------------------


def test_every_module_has_a_floor():
    unknown = {name.split(".")[1] for name in FILES if "." in name} - FLOOR.keys() - {"conf"}
    assert not unknown, f"give {sorted(unknown)} a floor in FLOORS"


@pytest.mark.parametrize(
    "module", [name for name in CORE if name != "rlhf_lora"]
)  # whose lazy names are of every floor
def test_imports_point_down(module):
    up = [f"{FILES[module].name}:{line} imports {name}" for name, line in ours(module) if floor(name) > floor(module)]
    assert not up, f"{module} is on floor {floor(module)}: {'; '.join(up)}"


@pytest.mark.parametrize("module", [name for name in PLUGINS if name.count(".") > 1])
def test_plugins_stand_on_floors_0_to_2_and_not_on_each_other(module):
    kind = ".".join(module.split(".")[:3])
    wrong = [
        f"{FILES[module].name}:{line} imports {name}"
        for name, line in ours(module)
        if not name.startswith(kind) and (floor(name) > 2 or name.startswith("rlhf_lora.plugins"))
    ]
    assert not wrong, "; ".join(wrong)


def test_core_never_imports_a_plugin_by_name():
    named = [f"{module} line {line}" for module in CORE for name, line in ours(module) if ".plugins" in name]
    assert not named, f"only the entry point reaches plugins: {named}"


def test_modules_do_not_import_each_other_in_circles():
    graph = {m: {n for n, _ in ours(m, typing=False) if n in FILES and n not in (m, "rlhf_lora")} for m in FILES}
    graph["rlhf_lora"] = set()  # lazy by design
    graph |= {m: set() for m in PLUGINS if FILES[m].name == "__init__.py"}  # they gather their modules
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle in it


# --- what is not in the house -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_called_by_what_it_is_not(module):
    assert not re.search(r"\b_?(utils?|helpers?|managers?|misc|common)\b", module)


def forbidden(code: str, module: str) -> list[str]:
    """Lines that call or import what this kit does not use, with the reason."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = []
        if isinstance(node, ast.Call):
            names = [ast.unparse(node.func)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            for pattern, reason in FORBIDDEN.items():
                if re.fullmatch(pattern, name):
                    found.append(f"{module} line {node.lineno}: {name} {reason}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_nothing_unpickles_or_runs_text(module):
    assert not forbidden(FILES[module].read_text(encoding="utf-8"), module)


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import pickle",
        "eval('1')",
        "from trl.experimental.ppo import PPOTrainer",
        "import hydra\nhydra.utils.instantiate({})",
        "from hydra.utils import instantiate",
    ],
)
def test_the_search_for_forbidden_calls_finds_them(code):
    assert forbidden(code, "probe")


def test_model_eval_is_not_taken_for_eval():
    assert not forbidden("model.eval()\nre.compile('x')", "probe")


def test_every_third_party_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    declared = {re.split(r"[\s<>=!~\[;]", line, maxsplit=1)[0].lower() for line in wanted}
    imported = {name.split(".")[0] for module in FILES for name, _ in imports(module)}
    third_party = imported - set(sys.stdlib_module_names) - {"rlhf_lora"}
    undeclared = {
        name for name in third_party if DISTRIBUTION.get(name, name).lower().replace("_", "-") not in declared
    }
    assert not undeclared, f"add to dependencies in pyproject.toml: {sorted(undeclared)}"


def test_constraints_pin_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pins = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    names = {re.split(r"[\s<>=!~\[;]", line, maxsplit=1)[0].lower() for line in wanted} - {"setuptools"}
    assert names <= pins


# --- importing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [m for m in FILES if not m.endswith("__main__")])
def test_every_module_imports(module):
    importlib.import_module(module)


def in_a_new_process(code: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


LIGHT = [m for m in CORE if floor(m) < 2 or m.split(".")[1] in ("cli", "plan", "notebook", "memory")] + PLUGINS


def test_front_door_plugins_and_command_line_load_nothing_heavy(tmp_path):
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(name)
    heavy = sorted({HEAVY} & set(sys.modules))
    if heavy:
        print(name, "loads", *heavy)
        break
"""
    assert in_a_new_process(code, tmp_path) == ""


VERBS = (
    [["--help"], ["plugins"], ["plan", "dataset.demonstrations=99", "dataset.pairs=99", "dataset.prompts=99"]]
    if "rlhf_lora.cli" in FILES
    else []
)


@pytest.mark.parametrize("arguments", VERBS, ids=" ".join)
def test_command_that_needs_no_model_loads_neither_torch_nor_transformers(arguments, tmp_path):
    code = f"""
import sys
sys.argv = ["rlhf-lora", *{arguments}]
from rlhf_lora.cli import main
try:
    status = main()
except SystemExit as end:
    status = end.code
assert not status, status
print("heavy:", *sorted({HEAVY} & set(sys.modules)))
"""
    assert in_a_new_process(code, tmp_path).splitlines()[-1].strip() == "heavy:"


def test_plugins_under_their_bare_name_are_refused(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
try:
    import plugins
except ImportError as error:
    print(error)
"""
    assert "import rlhf_lora.plugins" in in_a_new_process(code, tmp_path)


# --- the wheel --------------------------------------------------------------------------------------------------------

SHIPPED = (".py", ".yaml", ".txt", ".css", ".html", ".js", ".jinja", ".json", "py.typed")


def test_wheel_has_every_file_of_the_tree_and_nothing_else(wheel):
    """A folder missing from `packages` works in an editable install and vanishes from the wheel."""
    tree_files = {
        file.relative_to(ROOT).as_posix() if top == "rlhf_lora" else f"rlhf_lora/{file.relative_to(ROOT).as_posix()}"
        for top in ("rlhf_lora", "plugins", "conf")
        for file in (ROOT / top).rglob("*")
        if file.name.endswith(SHIPPED) and "__pycache__" not in file.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert tree_files - names == set(), "in the tree, not in the wheel: see packages and package-data in pyproject.toml"
    assert names - tree_files == set(), "in the wheel, not in the tree"


def test_wheel_carries_licence_entry_points_and_command(wheel):
    with zipfile.ZipFile(wheel) as files:
        info = {name.partition(".dist-info/")[2]: name for name in files.namelist() if ".dist-info/" in name}
        entry_points = files.read(info["entry_points.txt"]).decode()
    assert "licenses/LICENSE" in info
    assert "rlhf-lora = rlhf_lora.cli:main" in entry_points
    assert "builtin = rlhf_lora.plugins" in entry_points
