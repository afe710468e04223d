#!/usr/bin/env bash
# The yesno recipe: the same options as the run.sh at the top.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh need not be bash
set -euo pipefail
exec "$(dirname -- "$0")/../../run.sh" --recipe yesno "$@"
