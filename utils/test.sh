#!/usr/bin/env bash
# Passes the tests: ./utils/test.sh [--k2] [--extras] [--fast]
#   --k2     the tests that need k2, in the environment that has it; none or skipped is a failure
#   --extras the tests that need ./utils/setup.sh --with-extras; none or skipped is a failure
#   --fast   without the end-to-end and fault tests
set -euo pipefail
cd "$(dirname "$0")/.."
k2=false extras=false fast=false
sets=()
usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }
# shellcheck source=utils/parse_options.sh
. utils/parse_options.sh
parse_options "k2 extras fast" "$@"
# shellcheck source=path.sh
. ./path.sh

marked() { # the tests of one mark, in an environment that has what they need
  local python=$1 mark=$2
  report=$(mktemp)
  trap 'rm -f "$report"' EXIT
  $python -m pytest -q -m "$mark" --junitxml="$report" tests
  $python - "$report" "$mark" <<'COUNT'
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
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
shellcheck -x "${scripts[@]}"
marks="not k2 and not extras"
[[ $fast == true ]] && marks="not k2 and not extras and not slow"
python -m pytest -q -m "$marks" --durations=10 tests
