#!/usr/bin/env bash
# Make .NAME-venv, an environment of a library that the tests ask as an oracle, from requirements/NAME.txt.
# Does nothing where it is there and up to date; starts afresh where the requirements have changed.
#
#   tools/make_env.sh oracle         the `adapters` library, about 1 GB
#   tools/make_env.sh rliable        the `rliable` library, about 0.5 GB
#                                    uses python3, or $PYTHON
set -euo pipefail

name="${1:?usage: tools/make_env.sh oracle|rliable}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
requirements="$root/requirements/$name.txt"
venv="$root/.$name-venv"
done_with="$venv/requirements.done"  # a copy of what was installed, written last: a broken install is no install

if [ -x "$venv/bin/python" ] && cmp -s "$requirements" "$done_with"; then
    exit 0
fi
echo "making $venv (some minutes)"
"${PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r "$requirements"
"$venv/bin/python" -m pip check
cp "$requirements" "$done_with"
