"""The book's frame: its table of contents, its links, its figures, and that pages tell what was computed."""

import json
import re
import subprocess

import nbformat
import pytest
import yaml

from nuisance import paths, render

TOC = yaml.safe_load((paths.ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
CONFIG = yaml.safe_load((paths.ROOT / "_config.yml").read_text())


def tracked():
    listing = subprocess.run(["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return set(listing.stdout.split("\n"))


def test_every_chapter_is_in_the_table_of_contents():
    assert [f"notebooks/{stem}" for stem in render.stems()] == [
        page for page in PAGES if page.startswith("notebooks/")
    ]


def test_launch_edit_and_download_links_point_at_tracked_files():
    """The theme makes them from the address, the branch and the page's path; it checks none of them."""
    files = tracked()
    assert CONFIG["repository"]["path_to_book"] == ""
    assert CONFIG["repository"]["branch"] == "main"
    for page in PAGES:
        assert f"{page}.ipynb" in files or f"{page}.md" in files


def test_the_public_address_stands_in_one_place():
    address = paths.repository()
    holders = []
    for name in tracked():
        path = paths.ROOT / name
        if path.is_file() and path.suffix not in (".npz", ".ipynb", ".png"):
            holders += [name] if address in path.read_text(encoding="utf-8") else []
    assert holders == ["_config.yml"]


def test_relative_links_of_readme_and_pages_exist():
    pages = [paths.ROOT / "README.md", paths.ROOT / "CONTRIBUTING.md", *(paths.ROOT / "book").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("stem", render.stems())
def test_every_figure_has_a_caption_and_alternative_text(stem):
    notebook = nbformat.read(paths.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    for cell in notebook.cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            shown = cell.metadata["mystnb"]
            assert shown["figure"]["caption"]
            assert shown["image"]["alt"]
            assert shown["figure"]["name"].startswith("fig-")


@pytest.mark.parametrize("stem", render.stems())
def test_the_notebook_and_the_committed_record_tell_the_same_numbers(stem):
    """What the page quotes (glued into the notebook) is what the record holds, to the last bit."""
    record = json.loads((paths.ROOT / "results" / "reduced" / f"{stem}.json").read_text())
    notebook = nbformat.read(paths.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    glued = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                data = output["data"]
                text = next(value for kind, value in data.items() if kind.endswith("text/plain"))
                glued[name] = text
    assert {name: float(text) for name, text in glued.items() if name in record["numbers"]} == record[
        "numbers"
    ]
    for claim in record["claims"]:
        assert glued[f"{claim['id']}_verdict"] == repr(claim["verdict"])
        printed = f"{claim['id']} {claim['verdict']}\n"
        assert any(
            printed in output.get("text", "") for c in notebook.cells for output in c.get("outputs", [])
        )


@pytest.mark.parametrize("stem", render.stems())
def test_pictures_outside_the_chapter_are_the_chapters_own(stem):
    notebook = nbformat.read(paths.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    for name, picture in render.pictures(notebook).items():
        assert (render.PICTURES / f"{name}.png").read_bytes() == picture


@pytest.mark.parametrize("stem", render.stems())
def test_every_quoted_number_is_recorded(stem):
    record = json.loads((paths.ROOT / "results" / "reduced" / f"{stem}.json").read_text())
    source = (paths.NOTEBOOKS / f"{stem}.py").read_text(encoding="utf-8")
    quoted = set(re.findall(r"\{glue:text\}`([a-z_0-9]+):", source))
    assert quoted
    assert quoted <= set(record["numbers"])
