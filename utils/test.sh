#!/usr/bin/env bash
# Passes the tests: ./utils/test.sh [--k2] [--fast]
#   --k2     the tests that need k2, in the environment that has it; none or skipped is a failure
#   --fast   without the end-to-end and fault tests
set -euo pipefail
cd "$(dirname "$0")/.."
k2=false fast=false
sets=()
usage() { sed -n '2,4s/^# \{0,1\}//p' "$0"; }
# shellcheck source=utils/parse_options.sh
. utils/parse_options.sh
parse_options "k2 fast" "$@"
# shellcheck source=path.sh
. ./path.sh

if [[ $k2 == true ]]; then
  python=python
  python -c "import k2" 2>/dev/null || python=.venv-k2/bin/python
  [[ $python == python || -x $python ]] || die "k2 is not installed: ./utils/setup.sh --with-k2"
  report=$(mktemp)
  trap 'rm -f "$report"' EXIT
  $python -m pytest -q -m k2 --junitxml="$report" tests
  $python - "$report" <<'COUNT'
import sys
from xml.etree import ElementTree
suite = next(ElementTree.parse(sys.argv[1]).iter("testsuite"))
ran, skipped = int(suite.get("tests")), int(suite.get("skipped"))
print(f"k2 tests: {ran - skipped} ran, {skipped} skipped")
sys.exit(skipped > 0 or ran == 0)
COUNT
  exit
fi

ruff check .
ruff format --check .
mypy
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
shellcheck -x "${scripts[@]}"
marks="not k2"
[[ $fast == true ]] && marks="not k2 and not slow"
python -m pytest -q -m "$marks" --durations=10 tests
