#!/usr/bin/env bash
# Makes the environment of the toolkit: ./utils/setup.sh [--with-k2] [--with-kaldifeat] [--with-extras]
#   --venv DIR          where (.venv)
#   --python NAME       interpreter to build on (python3)
#   --torch VERSION     torch to install (2.13.0); TORCH_FIND_LINKS or pip's own settings say from where
#   --with-k2           k2: for the installed torch where a wheel can be had, else in .venv-k2
#   --with-kaldifeat    build kaldifeat (about 12 CPU-minutes)
#   --with-extras       what some options and tests need: wandb, bitsandbytes, triton, accelerate, ray, deepspeed
#   --check             exit 0 when the environment is complete, install nothing
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh need not be bash
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv python=python3 torch=2.13.0 with_k2=false with_kaldifeat=false with_extras=false check=false
sets=()
usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
# shellcheck source=utils/parse_options.sh
. "$root/utils/parse_options.sh"
parse_options "venv python torch with-k2 with-kaldifeat with-extras check" "$@"

requirements=("$root/utils/requirements.txt" "$root/utils/requirements-test.txt" "$root/utils/constraints.txt")
mark=$venv/.lmu-asr-ready
wanted=$(cat "${requirements[@]}" | cksum)

complete() { [[ -x $venv/bin/python && -f $mark && $(<"$mark") == "$wanted" ]]; }

install() {
  echo "setting up $venv (a minute or two)" >&2
  [[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
  local pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/utils/constraints.txt")
  # torch first and alone: a later range that it satisfies then never pulls another build
  "$venv/bin/python" -c "import torch" 2>/dev/null || "${pip[@]}" "torch==$torch" 2>&1 | quiet
  "${pip[@]}" -r "$root/utils/requirements.txt" -r "$root/utils/requirements-test.txt" 2>&1 | quiet
  echo "$wanted" >"$mark.tmp"
  mv "$mark.tmp" "$mark"
}

install_extras() {
  # DeepSpeed as plain Python: what it could compile is not used
  DS_BUILD_OPS=0 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/utils/constraints.txt" \
    -c "$root/utils/constraints-extras.txt" -r "$root/utils/requirements-extras.txt" 2>&1 | quiet
  # for the interpreter in tests; a CUDA build of torch brings the one that it wants, which stays
  "$venv/bin/python" -c "import triton" 2>/dev/null ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "triton==3.9.0" 2>&1 | quiet
}

quiet() { grep -v -E "^WARNING: Location|^$" || true; }

if [[ $check == true ]]; then
  case $venv in */.venv-k2) [[ -x $venv/bin/python ]] ;; *) complete ;; esac
  exit
fi
complete || install
if [[ $with_extras == true ]]; then install_extras; fi
if [[ $with_k2 == true ]]; then "$root/utils/setup_k2.sh" "$venv"; fi
if [[ $with_kaldifeat == true ]]; then "$root/utils/setup_kaldifeat.sh" "$venv"; fi
