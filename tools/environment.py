"""Write environment.yml from pyproject.toml and requirements.lock; called by `make lock`."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Written by `make lock` from pyproject.toml; do not edit.
# Python and pip from conda, all else from pip at the locked versions: nothing to solve, nothing to wait for.
name: nuisance
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["book"]
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    names = sorted(
        re.split(r"[<>=\[; ]", requirement, maxsplit=1)[0].lower().replace("_", "-") for requirement in wanted
    )
    body = "".join(f"      - {name}=={pins[name]}\n" for name in names)
    (ROOT / "environment.yml").write_text(f"{HEAD}{body}      - --editable .\n", encoding="utf-8")


if __name__ == "__main__":
    main()
