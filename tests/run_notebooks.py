"""Make notebooks/NAME.ipynb from notebooks/NAME.py: every cell run in order in a fresh kernel, outputs kept.

    python tests/run_notebooks.py             all of them, as `make notebooks` does
    python tests/run_notebooks.py quickstart --check    run it and write nothing

Runs and their cache live in a folder that is gone afterwards: nothing is taken from an earlier time, and no path of
this machine can come into a notebook.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NAMES = ("quickstart", "your_own_reward", "reading_a_sweep")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SETTINGS = {
    "OMP_NUM_THREADS": "1",  # tiny models: one thread is faster than two
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning of the kernel's debugger
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks and write their .ipynb files.")
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="notebooks-") as home, ThreadPoolExecutor(2) as pool:
        first, *others = given.names

        def make(name: str) -> None:
            started = time.monotonic()
            book = execute(name, Path(home))
            print(f"{name}  {time.monotonic() - started:.0f} s", flush=True)
            if not given.check:
                write(name, book)

        make(first)  # builds the tiny base; the others find it
        list(pool.map(make, others))
    return 0


def execute(name: str, home: Path) -> Any:
    """The notebook with its outputs.

    Args:
        home: where it runs, with its cache beside; notebooks that share it share the tiny base, stages too.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import jupytext
    from nbclient import NotebookClient

    work = home / name
    work.mkdir()
    os.environ.update(SETTINGS, RLHF_LORA_CACHE=str(home / "cache"))
    os.environ.pop("RLHF_LORA_QUIET", None)
    book = jupytext.read(FOLDER / f"{name}.py")
    book.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for i, cell in enumerate(book.cells):
        cell.id = f"{name}-{i}"  # the same at every run
    client = NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(work)}}, coalesce_streams=True,
        record_timing=False,
    )  # fmt: skip
    manager = client.create_kernel_manager()
    manager.kernel_spec.argv[0] = sys.executable  # this environment, whatever is registered
    manager.kernel_spec.argv.append("--log-level=ERROR")
    client.execute()
    book.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}  # without this machine's versions
    return book


def write(name: str, book: Any) -> None:
    """JSON as git likes it: indented, keys in order, one line feed at the end."""
    text = json.dumps(book, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (FOLDER / f"{name}.ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
