#!/usr/bin/env bash
# Installs k2: ./utils/setup_k2.sh [VENV]    (VENV: the main environment, .venv)
#   With K2_WHEEL_INDEX (a page of k2 wheels) set, the wheel for VENV's torch goes into VENV.
#   Otherwise, or where that fails, .venv-k2 is made: k2 1.23.4, torch 1.13.1, Python 3.11, 3.3 GB.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh need not be bash
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=${1:-$root/.venv} second=$root/.venv-k2
# The wheel's name tells the wrong Python's version; its hash names the file for 3.11 beyond doubt.
k2="k2==1.23.4 --hash=sha256:5b5f709b12b9cd092b583984d0b7d940c9f898101259c998d68d1f4adefa48d4"
pinned=(torch==1.13.1 numpy==1.26.4)

quiet() { grep -v -E "^WARNING: Location|^$" || true; }

from_index() {
  local torch
  torch=$("$venv/bin/python" -c "import torch; print(torch.__version__.split('+')[0])")
  echo "k2: looking for the wheel for torch $torch at $K2_WHEEL_INDEX" >&2
  "$venv/bin/python" -m pip download --quiet --no-deps --pre -d "$scratch" -f "$K2_WHEEL_INDEX" \
    "k2>1.24" 2>&1 | quiet
  compgen -G "$scratch/k2-*torch$torch-*.whl" >/dev/null || return 1
  "$venv/bin/python" -m pip install --quiet --no-deps "$scratch"/k2-*torch"$torch"-*.whl
  "$venv/bin/python" -c "import k2"
}

second_environment() {
  command -v python3.11 >/dev/null || { echo "k2: python3.11 is needed for .venv-k2" >&2; exit 1; }
  echo "k2: setting up $second (torch 1.13.1 and k2 1.23.4, 3.3 GB, two minutes)" >&2
  [[ -x $second/bin/python ]] || python3.11 -m venv "$second"
  local pip=("$second/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" "pip<26" wheel 2>&1 | quiet
  echo "$k2" >"$scratch/k2.txt"
  "${pip[@]}" --no-deps -r "$scratch/k2.txt" 2>&1 | quiet
  grep -v -E "^(torch|numpy)==" "$root/utils/constraints.txt" >"$scratch/constraints.txt"
  printf '%s\n' "${pinned[@]}" >>"$scratch/constraints.txt"
  "${pip[@]}" -c "$scratch/constraints.txt" "${pinned[@]}" graphviz six \
    -r "$root/utils/requirements.txt" -r "$root/utils/requirements-test.txt" 2>&1 | quiet
  "$second/bin/python" -c "import k2, torch; assert torch.__version__.startswith('1.13.1')"
  echo "$wanted" >"$mark.tmp"
  mv "$mark.tmp" "$mark"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if "$venv/bin/python" -c "import k2" 2>/dev/null; then exit 0; fi
if [[ -n ${K2_WHEEL_INDEX:-} ]]; then
  if from_index; then exit 0; fi
  echo "k2: no wheel for this torch there, taking the second environment" >&2
fi
mark=$second/.lmu-asr-ready
wanted=$(cat "$0" "$root"/utils/requirements{,-test}.txt "$root/utils/constraints.txt" | cksum)
[[ -x $second/bin/python && -f $mark && $(<"$mark") == "$wanted" ]] || second_environment
