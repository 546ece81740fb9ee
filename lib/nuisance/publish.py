"""Build the book: HTML from the rendered notebooks and the pages of ``book/``, warnings as errors.

python -m nuisance.publish                    # into _build
python -m nuisance.publish --output FOLDER
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from nuisance import paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the book and say how to open it; the exit status is jupyter-book's."""
    parser = argparse.ArgumentParser(prog="python -m nuisance.publish", description="Build the book.")
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder in which _build is made")
    output = parser.parse_args(arguments).output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    # --all: an incremental build would leave old numbers on pages that quote a chapter that has changed.
    builder = Path(sys.executable).with_name("jupyter-book")  # it cannot be run with -m
    command = [builder, "build", paths.ROOT, "--path-output", output]
    (output / "_build").mkdir(exist_ok=True)
    with FileLock(output / "_build" / "publish.lock"):
        status = subprocess.run([*command, "--all", "-W", "-n", "--keep-going"], check=False).returncode
    page = output / "_build" / "html" / "index.html"
    if status == 0:
        print(
            f"The book is in {page.parent}\nOpen it with: {sys.executable} -m webbrowser -t {page.as_uri()}"
        )
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted; the book may be incomplete. Run the same command again.", file=sys.stderr)
        sys.exit(130)
