#!/usr/bin/env bash
# Make .oracle-venv, the environment of the `adapters` library, from requirements/oracle.txt.
# Does nothing where it is there and up to date; starts afresh where the requirements have changed.
#
#   tools/make_oracle_env.sh            uses python3, or $PYTHON
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
requirements="$root/requirements/oracle.txt"
venv="$root/.oracle-venv"
done_with="$venv/requirements.done"  # a copy of what was installed, written last: a broken install is no install

if [ -x "$venv/bin/python" ] && cmp -s "$requirements" "$done_with"; then
    exit 0
fi
echo "making $venv (about 1 GB, some minutes)"
"${PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r "$requirements"
"$venv/bin/python" -m pip check
cp "$requirements" "$done_with"
