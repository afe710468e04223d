#!/usr/bin/env bash
# Passes the tests: ./utils/test.sh [--k2] [--extras] [--fast] [--random] [--seed N] [-- pytest's own]
#   --k2     the tests that need k2, in the environment that has it; none or skipped is a failure
#   --extras the tests that need ./utils/setup.sh --with-extras; none or skipped is a failure
#   --fast   without the end-to-end and fault tests
#   --random in random order, of modules and within them; the seed is printed
#   --seed   in the order of this seed
#   what follows -- goes to pytest: files, -k EXPRESSION, -x
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh need not be bash
set -euo pipefail
cd "$(dirname "$0")/.."
k2=false extras=false fast=false random=false seed=""
sets=()
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; }
# shellcheck source=utils/parse_options.sh
. utils/parse_options.sh
own=()
while (($#)) && [[ $1 != -- ]]; do
  own+=("$1")
  shift
done
(($# == 0)) || shift
parse_options "k2 extras fast random seed" "${own[@]}"
[[ $seed =~ ^[0-9]*$ ]] || die "--seed $seed: want a number"
[[ $random == true && -z $seed ]] && seed=$((RANDOM * 32768 + RANDOM))
tests=(python -m pytest -q "$@")
if [[ -n $seed ]]; then
  echo "random order; the same again: ./utils/test.sh --seed $seed"
  tests+=(--random-order --random-order-seed="$seed")
fi
# shellcheck source=path.sh
. ./path.sh

marked() { # the tests of one mark, in an environment that has what they need
  local python=$1 mark=$2
  report=$(mktemp)
  trap 'rm -f "$report"' EXIT
  "$python" "${tests[@]:1}" -m "$mark" --junitxml="$report"
  "$python" - "$report" "$mark" <<'COUNT'
import sys
from xml.etree import ElementTree
suite = next(ElementTree.parse(sys.argv[1]).iter("testsuite"))
ran, skipped = int(suite.get("tests")), int(suite.get("skipped"))
print(f"{sys.argv[2]} tests: {ran - skipped} ran, {skipped} skipped")
sys.exit(skipped > 0 or ran == 0)
COUNT
}

if [[ $k2 == true ]]; then
  python=python
  python -c "import k2" 2>/dev/null || python=.venv-k2/bin/python
  [[ $python == python || -x $python ]] || die "k2 is not installed: ./utils/setup.sh --with-k2"
  marked "$python" k2
  exit
fi
if [[ $extras == true ]]; then
  python -c "import wandb, bitsandbytes, accelerate, ray, deepspeed" 2>/dev/null ||
    die "the extras are not installed: ./utils/setup.sh --with-extras"
  marked python extras
  exit
fi

ruff check .
ruff format --check .
mypy
mapfile -t scripts < <(git ls-files '*.sh' .ci/run 2>/dev/null ||
  find . -path ./.ci/run -o -name '*.sh' -not -path './.*') # a copy without .git
shellcheck -x "${scripts[@]}"
marks="not k2 and not extras"
[[ $fast == true ]] && marks="not k2 and not extras and not slow"
"${tests[@]}" -m "$marks" --durations=25
