"""One place holds the dependencies; the lock files and environment.yml agree with it."""

import re
import subprocess
import sys
import tomllib

import yaml

from nuisance import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement):
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def locked(name):
    pins = {}
    for line in (paths.ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, _, version = line.partition(";")[0].strip().partition("==")
            assert version, f"{name}: {line!r} is not pinned"
            pins[name_of(package)] = version
    return pins


DIRECT = {name_of(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["book"]}
LOCK = locked("requirements.lock")


def test_every_dependency_is_locked():
    assert set(LOCK) >= DIRECT


def test_the_owners_packages_are_among_them():
    owners = {"jupyter-book", "jupytext", "papermill", "torch", "torchvision"}
    assert owners | {"matplotlib", "seaborn", "pytest", "nbval"} <= DIRECT


def test_environment_yml_names_the_same_at_the_locked_versions():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert conda == ["python=3.11", "pip"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    pins = dict(entry.split("==") for entry in pip if "==" in entry)
    assert pins == {name: LOCK[name] for name in DIRECT}
    assert [entry for entry in pip if "==" not in entry] == ["--editable ."]


def test_cuda_packages_are_apart_and_marked():
    cuda = (paths.ROOT / "requirements-cuda.lock").read_text().splitlines()
    assert all("sys_platform == 'linux'" in line for line in cuda if not line.startswith("#"))
    assert not [name for name in LOCK if name.startswith(("nvidia", "cuda", "triton"))]
    assert "torch" in LOCK


def test_what_is_installed_is_what_is_locked():
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    installed = dict(line.split("==") for line in listed.stdout.splitlines() if "==" in line)
    installed = {name_of(name): version.partition("+")[0] for name, version in installed.items()}
    differing = {name for name in DIRECT if installed.get(name) != LOCK[name]}
    assert not differing, f"run `make` anew: {sorted(differing)} differ from requirements.lock"


def test_versions_agree():
    import nuisance

    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert nuisance.__version__ == PROJECT["version"] == citation["version"]
