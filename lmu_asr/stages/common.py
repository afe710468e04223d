"""What all stages share: command line, directories, stamps, errors and the resume line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmu_asr.arguments import ArgumentParser
from lmu_asr.config import options
from lmu_asr.config_files import load_config
from lmu_asr.config_paths import flat_options, shaping
from lmu_asr.errors import LmuAsrError, StageError, advice
from lmu_asr.files import discard_temporaries, remove_leftovers
from lmu_asr.guard import guarded, watch_stop_file
from lmu_asr.lock import turn
from lmu_asr.options import SHAPES
from lmu_asr.progress import setup_logging
from lmu_asr.stages.code import code_of
from lmu_asr.stages.context import Context, add_common_arguments, make_context
from lmu_asr.stages.source import check_source, claim_source
from lmu_asr.stages.stamp import FORMAT, Stamp, make_stamp, with_outputs

IF_CHANGED = "if what is read of it changes"
OTHER_FORMAT = "its stamp is of an earlier version, which compared other things; it runs once more"
NAMES = ("download", "features", "lang", "graph", "train", "decode", "results")


class Unsure(str):
    """A reason to run that may not come true: the content of files not yet made decides."""


@dataclass(frozen=True)
class Stage:
    """One stage: what it depends on, where it stamps, and what it does.

    The options that shape its outputs (:func:`lmu_asr.options.opt`), the code that ``run`` reaches,
    ``inputs``, ``after`` and ``facts`` make the key; ``facts_from`` names the stages whose outputs
    ``facts`` reads. ``outputs_by_size`` looks at the size alone of outputs (files that users touch);
    ``late_inputs`` reads the inputs again after the run, for inputs that only the run itself
    discovers. ``say`` prints what a user wants to see at every call. ``together``: the processes of a
    launcher all run the stage at once. ``spares`` says which outputs a configuration can do without.
    ``on_cluster``: its jobs can be those of a Ray cluster. ``takes_over`` says whether what a version
    with other stamps has made is what the stage would make; ``taken_over`` hears that it was so.
    """

    name: str
    help: str
    run: Callable[[Context], None]
    stamp_dir: Callable[[Context], Path]
    outputs: Callable[[Context], Iterable[Path]]
    after: Sequence[str] = ()
    inputs: Callable[[Context], Iterable[Path]] = lambda _: ()
    facts: Callable[[Context], dict[str, str]] = lambda _: {}
    facts_from: Sequence[str] = ()
    outputs_by_size: bool = False
    late_inputs: bool = False
    say: Callable[[Context], None] = lambda _: None
    together: bool = False
    spares: Callable[[Context, Path], bool] = lambda _, __: False
    on_cluster: bool = False
    takes_over: Callable[[Context, Stamp, Stamp], bool] = lambda _, __, ___: False
    taken_over: Callable[[Context, Stamp], None] = lambda _, __: None

    @property
    def number(self) -> int:
        """Number of the stage in run.sh."""
        return NAMES.index(self.name)

    def stamp_path(self, context: Context) -> Path:
        """File of this stage's stamp."""
        return self.stamp_dir(context) / f".{self.name}.stamp.json"

    @property
    def function(self) -> str:
        """``run`` as :func:`lmu_asr.stages.code.code_of` takes it."""
        module = self.run.__module__
        # as a program the stage's module is called __main__: by that name its code is not found
        return f"{__package__}.{self.name}:run" if module == "__main__" else f"{module}:run"


def make_parser(stage: Stage) -> ArgumentParser:
    """Command line of one stage; ``--help`` lists every configuration key that it depends on."""
    wanted = {section for section, stages in SHAPES.items() if stage.name in stages}
    lines = [
        f"  {o.key} ({o.type}, default {o.default!r}): {o.help}"
        for o in options()
        if o.is_of(stage.name) or o.key.split(".")[0] in wanted
    ]
    epilog = "configuration keys (--set key=value):\n" + "\n".join(lines) if lines else None
    parser = ArgumentParser(
        prog=f"python -m lmu_asr.stages.{stage.name}",
        description=f"Stage {stage.number}: {stage.help}",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_common_arguments(parser)
    parser.add_argument(
        "--dry-run",
        type=int,
        nargs="?",
        const=stage.number,
        metavar="FIRST",
        help="say what would run of the stages from FIRST on; change nothing",
    )
    parser.add_argument("--force", action="store_true", help="run even when up to date")
    if stage.on_cluster:
        help_text = (
            "the --nj jobs are those of the Ray cluster of RAY_ADDRESS, else of this machine"
        )
        parser.add_argument("--ray", action="store_true", help=help_text)
    return parser


def program(stage: Stage) -> int:
    """Run one stage as the program that this process is; returns the exit status.

    SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGUSR1 end all of its processes, and the status is 128 + the number.
    Processes of a launcher have no guard of their own: they save and leave with success.
    """
    if stage.together and "RANK" in os.environ:
        return main(stage)
    named = f"stage {stage.number} ({stage.name})"
    return guarded(lambda: main(stage), named, saves=stage.together)


def main(stage: Stage, argv: Sequence[str] | None = None) -> int:
    """Run one stage from the command line; returns the exit status."""
    if not stage.together:
        watch_stop_file(_leave)
    setup_logging()
    args = make_parser(stage).parse_args(argv)
    try:
        config = load_config(args.config, args.set)
        context = make_context(config, args)
        with _named_os_errors():
            check_source(context)
            if args.dry_run is not None:
                say_plan(stage, context, args.dry_run)
            elif run_stage(stage, context):  # prepared data that are up to date may be read-only
                claim_source(context)
    except LmuAsrError as error:
        print(f"stage {stage.number} ({stage.name}): error: {error}", file=sys.stderr)
        return 1
    return 0


def _leave() -> None:
    """Leave in the middle: the next run finds whole files, and the guard ends other processes."""
    discard_temporaries()
    # called in the thread that watches, where sys.exit would end that thread alone
    os._exit(128 + signal.SIGTERM)


def run_stage(stage: Stage, context: Context) -> bool:
    """Run the stage unless its stamp says that it is up to date; returns whether it ran.

    Of several processes that want the same stage (two variants, two machines on one disk) one
    works, the others wait and find it done; the processes of one training run work together.
    """
    stamp = current_stamp(stage, context)
    reason = "--force" if context.force else why_stale(stage, context, stamp)
    if reason is None:
        logging.info("stage %d (%s): up to date", stage.number, stage.name)
        _keep_times(stage, context, stamp)
        stage.say(context)
        return False
    if _is_first():  # of the processes of a launcher
        logging.info("stage %d (%s): runs: %s", stage.number, stage.name, reason)
    if stage.together:
        _work(stage, context, stamp)
        return True
    with turn(stage.stamp_dir(context) / f".{stage.name}.lock") as waited:
        if waited:
            stamp = current_stamp(stage, context)
            if not context.force and why_stale(stage, context, stamp) is None:
                logging.info("stage %d (%s): another process has done it", stage.number, stage.name)
                stage.say(context)
                return False
        _clean(stage, context)
        _work(stage, context, stamp)
    return True


def say_plan(stage: Stage, context: Context, first: int) -> None:
    """Log whether the stage would run in a run of the stages from number ``first`` on, and why."""
    reason = why_run(stage, context, first)
    verb = "may run" if isinstance(reason, Unsure) else "would run"
    line = "up to date" if reason is None else f"{verb}: {reason}"
    logging.info("stage %d (%s): %s", stage.number, stage.name, line)


def why_run(stage: Stage, context: Context, first: int) -> str | None:
    """Why the stage would run after the stages from ``first`` on, or None; changes nothing.

    Raises:
        StageError: an earlier stage, before ``first``, has not left its stamp.
    """
    from lmu_asr.stages import load_stage

    if context.force:
        return "--force"
    unsure: list[str] = []
    for before in (load_stage(name) for name in _needed(stage, context)):
        if before.number < first or (reason := why_run(before, context, first)) is None:
            continue
        if not isinstance(reason, Unsure):
            return f"after stage {before.number} ({before.name})"
        unsure.append(f"after stage {before.number} ({before.name}), if that one runs")
    for before in (load_stage(name) for name in stage.facts_from):
        if before.number >= first and why_run(before, context, first) is not None:
            unsure.append(f"after stage {before.number} ({before.name}), {IF_CHANGED}")
    if not unsure:
        return why_stale(stage, context, current_stamp(stage, context))
    return _why_stale_without_facts(stage, context) or Unsure(unsure[0])


def _why_stale_without_facts(stage: Stage, context: Context) -> str | None:
    """Why the stage must run whatever its facts will be, which only stages before it will show."""
    old = Stamp.load(stage.stamp_path(context))
    if old is None:
        return "not made yet"
    if old.format != FORMAT:  # what its facts will be decides whether it is taken over
        return None
    stamp = current_stamp(replace(stage, facts=lambda _: {}), context)
    known = {name: part for name, part in old.parts.items() if name in stamp.parts}
    changed = stamp.changed(replace(old, parts=known))
    return "changed: " + ", ".join(changed) if changed else None


def _clean(stage: Stage, context: Context) -> None:
    """Remove what killed runs of this stage left; its lock is held, so nobody writes there."""
    remove_leftovers(stage.stamp_dir(context))
    for path in stage.outputs(context):
        if path.is_dir():
            remove_leftovers(path, deep=True)


def _work(stage: Stage, context: Context, stamp: Stamp) -> None:
    """Run the stage and leave its stamp."""
    path = stage.stamp_path(context)
    first = _is_first()
    if first:
        # an old stamp must not vouch for outputs that a kill leaves half new
        path.unlink(missing_ok=True)
    start = time.monotonic()
    stage.run(context)
    if first:
        stamp = current_stamp(stage, context, finished=True) if stage.late_inputs else stamp
        outputs = stage.outputs(context)
        with_outputs(stamp, outputs, path.parent, stage.outputs_by_size).save(path)
        stage.say(context)
        logging.info(
            "stage %d (%s): done in %.0f s", stage.number, stage.name, time.monotonic() - start
        )


def _is_first() -> bool:
    """Whether this is the process of a launcher that speaks for all, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def current_stamp(stage: Stage, context: Context, finished: bool = False) -> Stamp:
    """What the stage would be made from now, or has been made from where it has just ``finished``.

    Raises:
        StageError: an earlier stage has not left its stamp.
    """
    values: dict[str, dict[str, Any]] = {}
    for key, value in shaping(context.config, stage.name).items():
        values.setdefault(key.split(".")[0], {})[key] = value
    return make_stamp(
        values,
        code_of(stage.function, flat_options(context.config).get),
        stage.inputs(context),
        context.source_dir if stage.late_inputs else stage.stamp_dir(context),
        {name: upstream_key(stage, name, context) for name in _needed(stage, context)},
        stage.facts(context),
        None if finished else Stamp.load(stage.stamp_path(context)),
        may_skip=stage.late_inputs and not finished,
    )


def why_stale(stage: Stage, context: Context, stamp: Stamp) -> str | None:
    """Why the stage must run, or None when it is up to date."""
    old = Stamp.load(stage.stamp_path(context))
    if old is None:
        return "not made yet"
    if old.format != FORMAT:
        return None if stage.takes_over(context, old, stamp) else OTHER_FORMAT
    if old.key != stamp.key:
        return "changed: " + ", ".join(stamp.changed(old))
    broken = _broken(old, stage, context)
    if broken:
        return f"output missing or changed: {broken[0]}" + (
            f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        )
    return None


def _broken(stamp: Stamp, stage: Stage, context: Context) -> list[str]:
    """Outputs that are missing or changed, but for those that this configuration can spare."""
    names = stamp.broken_outputs(stage.stamp_dir(context))
    return [name for name in names if not stage.spares(context, Path(name))]


def _keep_times(stage: Stage, context: Context, stamp: Stamp) -> None:
    """Record times of files that only a copy has changed, and what is taken over from old stamps."""
    path = stage.stamp_path(context)
    old = Stamp.load(path)
    if old is None or not _is_first():
        return
    with contextlib.suppress(OSError):  # prepared data that are up to date may be read-only
        if old.format != FORMAT:
            logging.info(
                "stage %d (%s): taken over from an earlier version", stage.number, stage.name
            )
            stage.taken_over(context, stamp)
            outputs = stage.outputs(context)
            with_outputs(stamp, outputs, path.parent, stage.outputs_by_size).save(path)
        elif (new := old.with_times_of(path.parent, stamp)) != old:
            new.save(path)


def _needed(stage: Stage, context: Context) -> list[str]:
    own = context.has_own_copy
    return [name for name in stage.after if not (own and name == "download")]


def upstream_key(stage: Stage, name: str, context: Context) -> str:
    """Key of a finished earlier stage; errors as of :func:`upstream_stamp`."""
    return upstream_stamp(stage, name, context).key


def upstream_stamp(stage: Stage, name: str, context: Context) -> Stamp:
    """Stamp of a finished earlier stage.

    Raises:
        StageError: the earlier stage has not finished, or its outputs changed since.
    """
    from lmu_asr.stages import load_stage

    before = load_stage(name)
    path = before.stamp_path(context)
    stamp = Stamp.load(path)
    if stamp is None:
        raise StageError(
            f"needs stage {before.number} ({name}) first, which has "
            f"left no stamp at {path}: {_command(context)} --stage {before.number}"
        )
    missing = _broken(stamp, before, context)
    if missing:
        raise StageError(
            f"needs {missing[0]}, which is missing or changed "
            f"since stage {before.number} ({name}) made it: "
            f"{_command(context)} --stage {before.number}"
        )
    return stamp


def _command(context: Context) -> str:
    """The driver's command line for this recipe and variant."""
    recipe = f" --recipe {context.recipe}" if context.recipe else ""
    return f"./run.sh{recipe} --variant {context.config.variant}"


@contextlib.contextmanager
def _named_os_errors() -> Iterator[None]:
    """Turn a full disk and missing permissions into one line that says what to do."""
    try:
        yield
    except OSError as error:
        what = advice(error)
        if not what:
            raise
        place = error.filename or "output"
        raise StageError(
            f"{place}: {error.strerror}; {what}, then run the same command again"
        ) from error
