#!/usr/bin/env bash
# Sourced by run.sh: SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGUSR1 end what runs, then the script, whose status
# names the signal (128 + its number). `run` starts a command so; at, s and LMU_ASR_COMMAND say how to go on.
# shellcheck disable=SC2154

child="" taken=""
take() { # a signal: the first counts; what runs is asked to end, with SIGTERM whatever it was
  taken=${taken:-$1}
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
# shellcheck disable=SC2064 # the name is that of now
for name in INT TERM HUP QUIT USR1; do trap "take $name" "$name"; done

run() { # run a command in the background, since a shell takes no signal while one is in front
  [[ -z $taken ]] || leave
  "$@" &
  child=$!
  [[ -z $taken ]] || kill -TERM "$child" 2>/dev/null || true
  while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
  status=0
  wait "$child" || status=$?
  child=""
  [[ -z $taken ]] || leave
  return "$status"
}

leave() { # the status names the signal; the terminal may have gone
  status=$((128 + $(kill -l "$taken")))
  resume "${at:-run.sh} stopped by SIG$taken (status $status)"
}

resume() { # say how to go on, and leave
  local command=$LMU_ASR_COMMAND
  [[ -z $at || " $command " == *" --stage "* ]] || command+=" --stage $s"
  printf '%s. To go on:\n  %s\n' "$1" "$command" >&2 || true
  if [[ $taken == INT && -t 0 ]]; then # at a terminal die of it: only then does the shell's loop end, too
    rm -rf "${scratch:-}"
    trap - INT EXIT
    kill -INT $$
  fi
  exit "$status"
}
