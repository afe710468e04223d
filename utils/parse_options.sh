#!/usr/bin/env bash
# Sourced: sets shell variables from --name value, --name=value and --flag, as Kaldi scripts do.
# The caller declares every option as a variable first (a flag as name=false) and may define usage().
# `--set` may be given several times; its values gather in the array sets. Unknown option: status 2.

die() { echo "$0: error: $1" >&2; exit 2; }

closest() { # the known name that $1 begins, else the nearest by edit distance
  local best="" least=99 name score
  for name in "${@:2}"; do
    [[ $name == "$1"* ]] && { echo "$name"; return; }
    score=$(distance "$1" "$name")
    if ((score < least)); then least=$score best=$name; fi
  done
  echo "$best"
}

distance() { # Levenshtein distance of two short words
  local a=$1 b=$2 i j cost low
  local -a row=() last=()
  for ((j = 0; j <= ${#b}; j++)); do last[j]=$j; done
  for ((i = 1; i <= ${#a}; i++)); do
    row[0]=$i
    for ((j = 1; j <= ${#b}; j++)); do
      cost=1
      [[ ${a:i-1:1} == "${b:j-1:1}" ]] && cost=0
      low=$((last[j - 1] + cost))
      ((last[j] + 1 < low)) && low=$((last[j] + 1))
      ((row[j - 1] + 1 < low)) && low=$((row[j - 1] + 1))
      row[j]=$low
    done
    last=("${row[@]}")
  done
  echo "${last[${#b}]}"
}

parse_options() { # parse_options "known names" "$@"
  local known=$1 name value var flags=" "
  shift
  for name in $known; do
    var=${name//-/_}
    [[ ${!var} != false ]] || flags+="$name "
  done
  while (($#)); do
    case $1 in
      --help | -h) usage; exit 0 ;;
      --*) name=${1#--} ;;
      *) die "unexpected argument '$1'; options start with --" ;;
    esac
    value="" var=""
    [[ $name == *=* && $name != set=* ]] && value=${name#*=} name=${name%%=*}
    [[ $name == set=* ]] && value=${name#set=} name=set
    # shellcheck disable=SC2086
    [[ " $known set " == *" $name "* ]] || die "unknown option --$name; did you mean --$(closest "$name" $known set)?"
    var=${name//-/_}
    if [[ $flags == *" $name "* ]]; then
      [[ $1 != *=* || $value == true || $value == false ]] || die "$1: --$name is a flag, without a value"
      printf -v "$var" %s "${value:-true}"
      shift
      continue
    fi
    if [[ -z $value && $1 != *=* ]]; then
      [[ $# -gt 1 && $2 != --* ]] || die "option --$name wants a value"
      value=$2
      shift
    fi
    [[ -n $value ]] || die "option --$name has an empty value, as of a variable that is not set"
    if [[ $name == set ]]; then sets+=(--set "$value"); else printf -v "$var" %s "$value"; fi
    shift
  done
}
