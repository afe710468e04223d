#!/usr/bin/env bash
# The aishell recipe: the same options as the run.sh at the top.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec ./run.sh --recipe aishell "$@"
