#!/usr/bin/env bash
# Make .rliable-venv, the environment of the `rliable` library, from requirements/rliable.txt.
# Does nothing where it is there and up to date; starts afresh where the requirements have changed.
#
#   tools/make_rliable_env.sh            uses python3, or $PYTHON
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
requirements="$root/requirements/rliable.txt"
venv="$root/.rliable-venv"
done_with="$venv/requirements.done"  # a copy of what was installed, written last: a broken install is no install

if [ -x "$venv/bin/python" ] && cmp -s "$requirements" "$done_with"; then
    exit 0
fi
echo "making $venv (about 0.5 GB, a minute)"
"${PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r "$requirements"
"$venv/bin/python" -m pip check
cp "$requirements" "$done_with"
