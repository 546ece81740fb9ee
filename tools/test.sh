#!/bin/sh
# Everything that CI checks. The chapters run from an empty store and write their records apart, so that
# what is committed stays as it is; nbval and the tests then find those parts and those records.
set -eu
bin="${VENV:-.venv}/bin"
scratch="$PWD/_build/test"
rm -rf "$scratch"
mkdir -p "$scratch"

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"

export NUISANCE_STORE="$scratch/store" NUISANCE_RESULTS="$scratch/results"
"$bin/python" -m nuisance.render --output "$scratch/notebooks"
"$bin/python" -m nuisance.publish --output "$scratch/book"

exec "$bin/python" -m pytest tests notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout=1200 "$@"
