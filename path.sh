#!/usr/bin/env bash
# Sourced by every script, and by you: `. ./path.sh` in bash or zsh, from any directory by its path.
# Makes the environment (.venv) at first use; puts it and `lmu-asr` on PATH; sets locale and threads.
# LMU_ASR_VENV names another environment, such as .venv-k2.

LMU_ASR_ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")" && pwd) # $0: zsh
export LMU_ASR_ROOT
venv=${LMU_ASR_VENV:-$LMU_ASR_ROOT/.venv}
# shellcheck disable=SC2154 # set by run.sh alone
"$LMU_ASR_ROOT/utils/setup.sh" --check --venv "$venv" ||
  ${lmu_asr_run[@]+"${lmu_asr_run[@]}"} "$LMU_ASR_ROOT/utils/setup.sh" --venv "$venv"
export PATH=$venv/bin:$LMU_ASR_ROOT/utils/bin:$PATH
export PYTHONPATH=$LMU_ASR_ROOT${PYTHONPATH:+:$PYTHONPATH}
export LC_ALL=C.UTF-8 PYTHONUTF8=1 PYTHONUNBUFFERED=1
