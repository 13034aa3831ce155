#!/usr/bin/env bash
# Run a fast part of the tests with other versions of the libraries, in an environment of their own:
#
#   tools/test_dependencies.sh minimal    the lowest that pyproject.toml allows (requirements/minimal.txt)
#   tools/test_dependencies.sh newest     the newest that the package index has, made anew each time
#
# Uses python3 or $PYTHON, and torch or $TORCH, its CPU build where there is one. Warnings are no errors here: what
# other versions deprecate is theirs to say.
set -euo pipefail

name="${1:?usage: tools/test_dependencies.sh minimal|newest}"
torch="${TORCH:-torch}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=".$name-venv"
tests=(
    tests/hosts/test_loading.py tests/techniques/test_techniques.py tests/porting/test_porting.py tests/training/test_evaluation.py
    tests/analysis/test_stats_crossed.py tests/tasks/test_files.py tests/study/test_run.py tests/study/test_export.py
    tests/study/test_report.py tests/cli/test_commands.py
)
install=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-compile)

install_torch() {
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "${install[@]}" "$torch+cpu" 2>/dev/null || "${install[@]}" "$torch"
}

case "$name" in
minimal)
    if ! cmp -s requirements/minimal.txt "$venv/requirements.done"; then
        install_torch
        "${install[@]}" --no-deps -r requirements/minimal.txt
        cp requirements/minimal.txt "$venv/requirements.done"
    fi
    ;;
newest)
    install_torch
    "${install[@]}" --upgrade --upgrade-strategy eager ".[peft,bits]" pytest hypothesis "$torch"
    ;;
*)
    echo "tools/test_dependencies.sh: expected minimal or newest, got $name" >&2
    exit 2
    ;;
esac
"$venv/bin/python" -m pip check
"$venv/bin/python" -m pytest -p no:cacheprovider -W default "${tests[@]}"
