"""The renderer: ``notebooks/NN_stem.py`` -> papermill -> ``notebooks/NN_stem.ipynb`` with its outputs.

    python -m nuisance.render                     # every chapter, side by side, one process a core
    python -m nuisance.render 01_learning_not_to_learn
    python -m nuisance.render --output FOLDER     # leave the committed notebooks as they are

Only the ``.py`` is edited. The ``.ipynb`` is byte for byte the same when it is rendered again on the same
machine: cell ids are counted, and all metadata that tells of time is dropped. A chapter that fails
leaves its notebook with the traceback in ``_build/failed`` and the committed one untouched.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from nuisance import paths, store
from nuisance.files import replace_file

PAPERMILL_OPTIONS = ("--kernel", "python3", "--no-progress-bar", "--log-level", "ERROR")
KEPT_METADATA = ("tags", "mystnb")
FAILED = paths.ROOT / "_build" / "failed"
PICTURES = paths.ROOT / "book" / "images"


@dataclass(frozen=True)
class Failure:
    """A chapter that failed: where, why, and where its notebook with the traceback is."""

    stem: str
    cell: str
    reason: str
    notebook: Path

    def __str__(self) -> str:
        return f"{self.stem} failed in {self.cell}: {self.reason} The notebook with the traceback: {self.notebook}"


def stems() -> list[str]:
    """The chapters, in the order of their numbers."""
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("[0-9][0-9]_*.py"))


def source_notebook(stem: str) -> NotebookNode:
    """A chapter's source as a notebook without outputs.

    ``{{repository}}`` stands for the repository's public address, which stands in one place only.
    """
    text = (paths.NOTEBOOKS / f"{stem}.py").read_text(encoding="utf-8")
    notebook = jupytext.reads(text.replace("{{repository}}", paths.repository()), fmt="py:percent")
    return _stable(notebook)


def same_source(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks have the same cells, whatever their outputs."""

    def cells(notebook: NotebookNode) -> list[tuple[str, str, str]]:
        return [
            (cell.cell_type, cell.source, json.dumps(cell.metadata, sort_keys=True))
            for cell in notebook.cells
        ]

    return cells(one) == cells(other)


def _stable(notebook: NotebookNode) -> NotebookNode:
    """The notebook without anything that differs from one run to the next."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in KEPT_METADATA and v})
        for output in cell.get("outputs", []):
            output.pop("transient", None)
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def render(stem: str, output: Path) -> Failure | None:
    """Execute a chapter with papermill and write ``output/<stem>.ipynb``; on failure say where it failed."""
    with tempfile.TemporaryDirectory(prefix="nuisance-") as folder:
        source, executed, log = (Path(folder) / name for name in ("in.ipynb", "out.ipynb", "progress"))
        nbformat.write(source_notebook(stem), source)
        log.touch()
        finished = threading.Event()
        follower = threading.Thread(target=_follow, args=(stem, log, finished))
        follower.start()
        try:
            process = subprocess.run(
                [sys.executable, "-m", "papermill", source, executed, *PAPERMILL_OPTIONS],
                cwd=paths.NOTEBOOKS,
                env={**os.environ, "NUISANCE_PROGRESS": str(log), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            finished.set()
            follower.join()
        last = (process.stderr.strip().splitlines() or ["papermill said nothing"])[-1]
        if not executed.is_file():
            return Failure(stem, "papermill itself", last, paths.NOTEBOOKS / f"{stem}.py")
        notebook = nbformat.read(executed, as_version=4)
    if process.returncode != 0:
        target = FAILED / f"{stem}.ipynb"
        replace_file(target, nbformat.writes(notebook).encode())
        return Failure(stem, *(_failing_cell(notebook) or ("papermill itself", last)), target)
    replace_file(output / f"{stem}.ipynb", (nbformat.writes(_stable(notebook)).rstrip() + "\n").encode())
    if output == paths.NOTEBOOKS:
        for name, picture in pictures(notebook).items():
            replace_file(PICTURES / f"{name}.png", picture)
    return None


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The figures of cells with the tag ``picture``, as PNG by name: pages outside the chapter may show them."""
    found = {}
    for cell in notebook.cells:
        if "picture" in cell.metadata.get("tags", []):
            drawn = next(
                output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})
            )
            found[cell.metadata.mystnb.figure.name] = base64.b64decode(drawn)
    return found


def _failing_cell(notebook: NotebookNode) -> tuple[str, str] | None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                first = next((line for line in cell.source.splitlines() if line.strip()), "")
                where = f"code cell [{cell.execution_count}] (`{first.strip()}`)"
                return where, f"{output.ename}: {output.evalue}"
    return None


def _follow(stem: str, log: Path, finished: threading.Event) -> None:
    """Print what the chapter says of its progress, as it says it."""
    with log.open(encoding="utf-8") as lines:
        while True:
            last = finished.is_set()
            for line in lines:
                print(f"  {stem}: {line.rstrip()}", flush=True)
            if last:
                return
            time.sleep(0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the named chapters; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m nuisance.render", description="Render the chapters.")
    parser.add_argument(
        "stems", nargs="*", help="chapters, such as 01_learning_not_to_learn; all unless named"
    )
    parser.add_argument("--output", type=Path, default=paths.NOTEBOOKS, help="folder of the notebooks")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.stems) - set(stems()))
    if unknown:
        parser.error(f"there is no chapter {unknown[0]!r}; there are {', '.join(stems())}")
    chosen = given.stems or stems()
    print(f"Executing {len(chosen)} chapter(s) with papermill; finished parts are kept in {paths.store()}.")
    failures = []
    started = time.perf_counter()
    pool = ThreadPoolExecutor(max_workers=store.cores())
    try:
        tasks = {pool.submit(render, stem, given.output.absolute()): stem for stem in chosen}
        for task in as_completed(tasks):
            failure = task.result()
            seconds = time.perf_counter() - started
            print(failure or f"{tasks[task]}: rendered after {seconds:.0f} s", flush=True)
            failures += [failure] if failure else []
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C no further chapter is begun
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted. Finished parts are kept; run the same command again to go on.", file=sys.stderr)
        sys.exit(130)
