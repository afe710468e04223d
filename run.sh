#!/usr/bin/env bash
# Runs the stages of a recipe, from nothing to a results table: ./run.sh --help
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh run.sh: sh need not be bash
set -euo pipefail
caller=$PWD # relative paths that the user gives mean this directory
export LMU_ASR_CALLER_DIR=$caller # where commands of wav.scp run, and audio of lists may be
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"

stage=0 stop_stage=6 recipe="" variant=default data="" fsa=""
ngpu=auto nproc=1 num_nodes=1 node_rank=0 master_addr=127.0.0.1 master_port=0
launcher=auto max_restarts=0
nj=$(nproc) exp_dir="" data_dir="" force=false dry_run=false
sets=()

usage() {
  cat <<'HELP'
usage: ./run.sh [options]

  stages: 0 download  1 features  2 lang  3 graph  4 train  5 decode  6 results
  every stage is also python -m lmu_asr.stages.<name> --help

  --stage N            first stage (0)
  --stop-stage N       last stage (6)
  --recipe NAME        directory of egs/ (mini)
  --variant NAME       file of egs/<recipe>/conf/ (default)
  --data PATH          your own data: Kaldi directory, JSONL, CSV, TSV, Lhotse manifests
                       or a LibriSpeech tree (recipe own unless --recipe is given)
  --set KEY=VALUE      override one key of the configuration; may be repeated; the table marks it
  --fsa NAME           auto, k2 or openfst
  --ngpu N             GPUs of each machine to train on (all; 0 trains on the CPU)
  --nproc N            CPU processes of each machine to train with without GPUs (1)
  --num-nodes N        machines to train on (1), with --node-rank, --master-addr, --master-port
  --launcher NAME      plain, torchrun, accelerate or ray (plain for one process, else torchrun)
  --max-restarts N     times that a process which died is started again (0)
  --nj N               parallel jobs of data preparation (number of cores); with --launcher ray
                       on the cluster of RAY_ADDRESS
  --data-dir DIR       prepared data (data)
  --exp-dir DIR        experiments (exp)
  --force              run the chosen stages even when they are up to date; training starts anew
  --dry-run            say what would run and what cannot work, change nothing
  --help               this text

Relative paths mean the directory that you call from. Run the same command again to go on where it
stopped; without --force, which starts anew each time. SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGUSR1 end it
whole (training saves itself) with status 130, 143, 129, 131 or 138.
HELP
}

# shellcheck source=utils/parse_options.sh
. utils/parse_options.sh
self=$0
[[ $self == */* && $caller != "$PWD" ]] || self=./run.sh
command_line=("$self") # without --force: it is the command that goes on
for word in "$@"; do [[ $word == --force?(=*) ]] || command_line+=("$word"); done
LMU_ASR_COMMAND=$(printf '%q ' "${command_line[@]}")
export LMU_ASR_COMMAND=${LMU_ASR_COMMAND% }
at="" # the stage that runs
# shellcheck source=utils/signals.sh
. utils/signals.sh
parse_options "stage stop-stage recipe variant data fsa ngpu nproc num-nodes node-rank master-addr \
master-port launcher max-restarts nj exp-dir data-dir force dry-run" "$@"
[[ $stage =~ ^[0-6]$ ]] || die "--stage $stage: want 0 to 6"
[[ $stop_stage =~ ^[0-6]$ ]] || die "--stop-stage $stop_stage: want 0 to 6"
[[ $ngpu == auto || $ngpu =~ ^[0-9]+$ ]] || die "--ngpu $ngpu: want a number"
[[ $launcher =~ ^(auto|plain|torchrun|accelerate|ray)$ ]] ||
  die "--launcher $launcher: want auto, plain, torchrun, accelerate or ray"
[[ $fsa =~ ^(|auto|k2|openfst)$ ]] || die "--fsa $fsa: want auto, k2 or openfst"
((stage <= stop_stage)) || die "--stop-stage $stop_stage comes before --stage $stage"
for name in nproc num_nodes node_rank master_port max_restarts nj; do
  [[ ${!name} =~ ^[0-9]+$ ]] || die "--${name//_/-} ${!name}: want a number"
done
for name in nproc num_nodes nj; do ((10#${!name})) || die "--${name//_/-} 0: want 1 or more"; done
for name in exp_dir data_dir; do
  case ${!name} in
    "") printf -v "$name" %s "${name%_dir}" ;; # in the project
    /*) ;;
    *) printf -v "$name" %s "$caller/${!name}" ;;
  esac
done
if [[ -z $recipe ]]; then recipe=mini; [[ -z $data ]] || recipe=own; fi
((${SLURM_RESTART_COUNT:-0} == 0)) || force=false # a job that was queued again goes on

scratch=$(mktemp -d) || die "TMPDIR=${TMPDIR:-/tmp}: no temporary files can be written there: name another"
trap 'rm -rf "$scratch"' EXIT
lmu_asr_run=(run python3 -I lmu_asr/guard.py) # of what path.sh installs
# shellcheck source=path.sh
. ./path.sh
python=python
if [[ $fsa == k2 ]] && ! "$python" -c "import k2" 2>/dev/null; then
  [[ -x .venv-k2/bin/python ]] || die "--fsa k2: k2 is not installed; run ./utils/setup.sh --with-k2"
  echo "k2: stages run in .venv-k2" >&2
  python=$PWD/.venv-k2/bin/python
fi

range=(--stage "$stage" --stop-stage "$stop_stage" --launcher "$launcher" --ngpu "$ngpu"
  --nproc "$nproc" --num-nodes "$num_nodes" --node-rank "$node_rank")
out=("${range[@]}") # what is missing is found before any compute
[[ $dry_run == true ]] && out=(--out "$scratch/resolved.yaml")
run "$python" -m lmu_asr.stages.configure --recipe "$recipe" --variant "$variant" --data "$data" \
  --fsa "$fsa" --data-dir "$data_dir" --exp-dir "$exp_dir" --caller-dir "$caller" "${out[@]}" \
  ${sets[@]+"${sets[@]}"} >"$scratch/config"
config=$(<"$scratch/config")
common=(--config "$config" --recipe "$recipe" --data-dir "$data_dir" --exp-dir "$exp_dir" --nj "$nj")
[[ $force == true ]] && common+=(--force)
if [[ $dry_run == true ]]; then
  run "$python" -m lmu_asr.stages.plan "${common[@]}" "${range[@]}"
  exit
fi
LMU_ASR_RUN_ID=$$-$(date +%s%N) # a launcher that starts --force again starts no other run
export LMU_ASR_RUN_ID

names=(download features lang graph train decode results)
for ((s = stage; s <= stop_stage; s++)); do
  at="stage $s (${names[s]})" status=0
  if [[ ${names[s]} == train ]]; then
    run "$python" -m lmu_asr.training.launch.start --launcher "$launcher" --ngpu "$ngpu" --nproc "$nproc" \
      --num-nodes "$num_nodes" --node-rank "$node_rank" --master-addr "$master_addr" \
      --master-port "$master_port" --max-restarts "$max_restarts" --storage "$exp_dir/.ray" \
      -m lmu_asr.stages.train "${common[@]}" || status=$?
  else
    extra=()
    [[ ${names[s]} == features && $launcher == ray && -n ${RAY_ADDRESS:-} ]] && extra=(--ray)
    run "$python" -m "lmu_asr.stages.${names[s]}" "${common[@]}" ${extra[@]+"${extra[@]}"} || status=$?
  fi
  ((status == 0)) || resume "$at stopped with status $status"
done
[[ -z $taken ]] || leave
