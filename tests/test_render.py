"""The renderer: committed notebooks are the renderings of their sources; bytes repeat; failures are told."""

import subprocess
import sys

import nbformat
import papermill
import pytest

from nuisance import paths, render

HEADER = (
    "# ---\n# jupyter:\n#   kernelspec: {display_name: Python 3, language: python, name: python3}\n# ---\n"
)
GOOD = (
    HEADER
    + """
# %% [markdown]
# # A chapter of {{repository}}

# %% tags=["parameters"]
size: int = 3  # how many

# %%
import matplotlib.pyplot as plt
plt.plot(range(size))
plt.show()

# %% tags=["nbval-check-output"]
print(size)
"""
)
BAD = HEADER + "\n# %%\nx = 1\n\n# %%\ny = x / 0\n"


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """A folder of two chapters in the place of the book's own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "01_good.py").write_text(GOOD)
    (folder / "02_bad.py").write_text(BAD)
    monkeypatch.setattr(paths, "NOTEBOOKS", folder)
    monkeypatch.setattr(render, "FAILED", tmp_path / "failed")
    monkeypatch.setenv("NUISANCE_STORE", str(tmp_path / "store"))
    return folder


@pytest.mark.parametrize("stem", render.stems())
def test_no_warning_stands_in_a_committed_notebook(stem):
    """It would name paths of the machine that rendered it, and another rendering would lack it."""
    committed = nbformat.read(paths.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    outputs = [output for cell in committed.cells for output in cell.get("outputs", [])]
    assert outputs
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("stem", render.stems())
def test_the_committed_notebook_is_the_rendering_of_its_source(stem):
    committed = nbformat.read(paths.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    source = render.source_notebook(stem)
    assert render.same_source(committed, source), f"run `make notebooks`: {stem}.ipynb is out of date"
    assert all(cell.execution_count for cell in committed.cells if cell.cell_type == "code")


def test_an_edit_of_the_source_is_noticed(chapters):
    before = render.source_notebook("01_good")
    for old, new in (("size: int = 3", "size: int = 4"), ('"nbval-check-output"', '"hide-input"')):
        (chapters / "01_good.py").write_text(GOOD.replace(old, new))
        assert not render.same_source(before, render.source_notebook("01_good"))
    (chapters / "01_good.py").write_text(GOOD)
    assert render.same_source(before, render.source_notebook("01_good"))


def test_rendering_twice_gives_the_same_bytes(chapters):
    assert render.render("01_good", chapters) is None
    first = (chapters / "01_good.ipynb").read_bytes()
    (chapters / "01_good.ipynb").unlink()
    assert render.render("01_good", chapters) is None
    assert (chapters / "01_good.ipynb").read_bytes() == first
    notebook = nbformat.reads(first.decode(), as_version=4)
    nbformat.validate(notebook)
    assert paths.repository() in notebook.cells[0].source
    assert notebook.cells[-1].outputs[0].text == "3\n"
    assert "image/png" in notebook.cells[2].outputs[-1].data


def test_a_failing_chapter_names_its_cell_keeps_its_traceback_and_spares_the_old_rendering(chapters, capsys):
    (chapters / "02_bad.ipynb").write_text("the last good one")
    assert render.main(["02_bad"]) == 1
    said = capsys.readouterr().out
    assert "02_bad failed in code cell [2] (`y = x / 0`): ZeroDivisionError: division by zero" in said
    assert (chapters / "02_bad.ipynb").read_text() == "the last good one"
    failed = nbformat.read(render.FAILED / "02_bad.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in failed.cells for output in cell.get("outputs", []))


def test_one_failing_chapter_does_not_stop_the_others(chapters):
    assert render.main([]) == 1
    assert (chapters / "01_good.ipynb").is_file()


def test_an_unknown_chapter_is_named_with_the_known_ones(chapters, capsys):
    with pytest.raises(SystemExit):
        render.main(["03_ugly"])
    assert "there is no chapter '03_ugly'; there are 01_good, 02_bad" in capsys.readouterr().err


def test_a_misspelt_parameter_stops_plain_papermill_with_one_sentence(tmp_path):
    source, out = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    nbformat.write(render.source_notebook(render.stems()[0]), source)
    command = [sys.executable, "-m", "papermill", str(source), str(out), "-p", "color_varianecs", "[0.1]"]
    done = subprocess.run([*command, "--no-progress-bar"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ParameterError: There is no parameter 'color_varianecs'.")
    assert "Did you mean 'color_variances'?" in last


@pytest.mark.parametrize("stem", render.stems())
def test_papermill_shows_every_parameter_with_its_type_and_its_meaning(stem):
    shown = papermill.inspect_notebook(paths.NOTEBOOKS / f"{stem}.ipynb")
    assert {"scale", "dataset", "seeds", "device", "data_root"} <= set(shown)
    for name, parameter in shown.items():
        assert parameter["inferred_type_name"] in ("str", "list", "int", "float", "bool"), name
        assert parameter["help"], name


FORK = (
    HEADER
    + """
# %% tags=["parameters"]
scale: str = "reduced"  # scale
dataset: str = None  # data set
seeds: list = None  # seeds
device: str = "cpu"  # device
data_root: str = None  # folder

# %%
from nuisance import study

run = study.start("03_fork", globals(), defaults={("reduced", "none"): {"seeds": [0, 1, 2]}})
factor = 10


def scaled(seed):
    return {"value": helper(seed)}


def helper(seed):
    return factor * seed


print([part["value"] for part in run.parts(scaled, [{"seed": seed} for seed in run.parameters.seeds])])
"""
)


def test_a_fork_may_compute_parts_with_functions_of_its_own(chapters, monkeypatch, tmp_path):
    """As the book promises: side by side in processes, and keyed by all that the function names."""
    monkeypatch.setenv("NUISANCE_RESULTS", str(tmp_path / "results"))
    for factor in (10, 20):
        (chapters / "03_fork.py").write_text(FORK.replace("factor = 10", f"factor = {factor}"))
        assert render.render("03_fork", chapters) is None
        notebook = nbformat.read(chapters / "03_fork.ipynb", as_version=4)
        texts = [output.get("text", "") for output in notebook.cells[1].outputs]
        assert f"[0, {factor}, {2 * factor}]\n" in texts
