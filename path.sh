#!/usr/bin/env bash
# Sourced by every script: the environment (.venv, made at first use), PYTHONPATH, locale, threads.
# LMU_ASR_VENV names another environment, such as .venv-k2.

LMU_ASR_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LMU_ASR_ROOT
venv=${LMU_ASR_VENV:-$LMU_ASR_ROOT/.venv}
"$LMU_ASR_ROOT/utils/setup.sh" --check --venv "$venv" || "$LMU_ASR_ROOT/utils/setup.sh" --venv "$venv"
export PATH=$venv/bin:$PATH
export PYTHONPATH=$LMU_ASR_ROOT${PYTHONPATH:+:$PYTHONPATH}
export LC_ALL=C.UTF-8 PYTHONUTF8=1 PYTHONUNBUFFERED=1
