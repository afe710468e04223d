#!/usr/bin/env bash
# Compares two decodes on the same utterances, as lmu-asr compare: ./utils/compare.sh FIRST SECOND [options]
#   FIRST, SECOND      experiment directories (exp/mini/default) or results.json files
#   --split NAME       only this split
#   --method A [B]     one method for both, or the first's and the second's
#   --limit N          utterances shown (20)
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh need not be bash
set -euo pipefail
exec "$(dirname -- "$0")/bin/lmu-asr" compare "$@"
