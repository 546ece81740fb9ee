#!/bin/sh
# Resolve pyproject.toml in a fresh environment and pin what came out: requirements.lock holds what every machine
# needs, requirements-cuda.lock what PyTorch's default build for Linux on x86-64 brings along.
set -eu
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
# soupsieve, which Beautiful Soup brings along, refuses Debian 12's Python 3.11.2 from 3.0 on.
"$folder/venv/bin/python" -m pip install --quiet ".[book]" "setuptools>=77" "soupsieve<3"
frozen="$folder/frozen"
"$folder/venv/bin/python" -m pip freeze --all --exclude nuisance --exclude pip | sort -f >"$frozen"
cuda='^(nvidia-|cuda-|triton=)'
head="# Written by \`make lock\` from pyproject.toml; do not edit."
{ echo "$head"; grep -vE "$cuda" "$frozen"; } >requirements.lock
{
    echo "$head"
    grep -E "$cuda" "$frozen" | sed "s/\$/ ; sys_platform == 'linux' and platform_machine == 'x86_64'/"
} >requirements-cuda.lock
wc -l requirements.lock requirements-cuda.lock
"$folder/venv/bin/python" tools/environment.py
