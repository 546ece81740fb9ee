#!/bin/sh
# install.sh PYTHON VENV TORCH: the environment, from the lock files. TORCH is `default` or `cpu`.
set -eu
python=$1 venv=$2 torch=$3
stamp="$venv/installed-$torch"
# Another run of make may have finished it while this one waited for the lock.
if [ -e "$stamp" ] && [ "$stamp" -nt requirements.lock ] && [ "$stamp" -nt requirements-cuda.lock ] &&
    [ "$stamp" -nt pyproject.toml ]; then
    exit 0
fi
command -v "$python" >/dev/null || {
    echo "$python is not here; install Python 3.11 (Debian: python3.11 and python3.11-venv), or name another with PYTHON=..." >&2
    exit 1
}
echo "Installing the environment into $venv (PyTorch: $torch). This happens once."
rm -f "$venv"/installed-*
# An interrupted or failed `venv` leaves a Python without pip behind.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv" || {
    echo "$python cannot make an environment; on Debian: apt install python3.11-venv" >&2
    exit 1
}
if [ "$torch" = cpu ]; then
    # uv knows where PyTorch keeps its builds without CUDA; the same versions, without the CUDA lock file.
    "$venv/bin/python" -m pip install --quiet uv
    VIRTUAL_ENV="$venv" "$venv/bin/uv" pip install --torch-backend cpu -r requirements.lock
else
    "$venv/bin/python" -m pip install --quiet -r requirements.lock -r requirements-cuda.lock
fi
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation -e .
touch "$stamp"
