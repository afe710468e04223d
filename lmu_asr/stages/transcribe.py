"""Transcription of audio files with a trained model: a line a file, name, tab, text.

Runs by hand after stage 4: lmu-asr transcribe --config exp/mini/default/config.yaml
FILE.wav [FILE...]. Any format that libsndfile or FFmpeg reads, video too, any sample rate, any number
of channels; - is standard input, and a named pipe is read to its end. In names, control characters, bytes that are not UTF-8 and % are written as %XX, in the
CTM blanks too. A silent file has a line without text; one that cannot be read is named on standard
error, the others are done, and the status is 1.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmu_asr.config import Config
from lmu_asr.data.importing.ids import escaped
from lmu_asr.data.piped_file import STDIN, regular_file
from lmu_asr.errors import ConfigError, DataError, LmuAsrError, ModelError
from lmu_asr.guard import end_quietly
from lmu_asr.progress import setup_logging
from lmu_asr.stages.common import ArgumentParser, add_common_arguments, make_context
from lmu_asr.stages.context import trained_config

if TYPE_CHECKING:
    from lmu_asr.decoding.transcribe import Transcriber, Transcript

PROG = "python -m lmu_asr.stages.transcribe"


def make_parser(prog: str = PROG) -> ArgumentParser:
    """Command line of the transcription."""
    parser = ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False)
    add_common_arguments(parser)
    parser.add_argument(
        "files",
        nargs="+",
        type=_input,
        metavar="FILE",
        help="audio file; - for standard input. What comes through a pipe is first kept in TMPDIR",
    )
    parser.add_argument("--method", default="", help="search (the last of decode.methods)")
    parser.add_argument("--ctm", type=Path, default=None, help="write word times to this file")
    parser.add_argument(
        "--streaming", action="store_true", help="in chunks of decode.chunk_ms, as a stream would"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Transcribe the files; returns the exit status, 1 where any of them could not be."""
    setup_logging()
    args = make_parser(prog).parse_args(argv)
    try:
        if args.ctm:
            _check_ctm(args.ctm, args.files)
        config = _with_streaming(trained_config(args.config, args.set), args.streaming)
        context = make_context(config, args)
        from lmu_asr.decoding.transcribe import Transcriber

        transcriber = Transcriber.open(
            config, context.exp_dir, context.lang_dir, context.graph_dir, args.method
        )
        found = _transcribe(transcriber, args.files)
        if args.ctm:
            _write_ctm(args.ctm, found, transcriber)
    except LmuAsrError as error:
        print(f"transcribe: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"transcribe: error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0 if len(found) == len(set(args.files)) else 1


def _input(text: str) -> Path:
    """The path of a file; ``./-`` is a file of this name, not standard input."""
    path = Path(text)
    # Path("./-") equals Path("-"): only the text as typed tells them apart
    return path.absolute() if text != STDIN and str(path) == STDIN else path


def _check_ctm(ctm: Path, files: Sequence[Path]) -> None:
    """Refuse to write over audio: ``--ctm a.wav b.wav`` is easily written for two inputs.

    Raises:
        ConfigError: the file is an input, or its name is that of audio.
    """
    from lmu_asr.data.audio.reader import is_audio

    if is_audio(ctm) or os.path.realpath(ctm) in map(os.path.realpath, files):
        raise ConfigError(
            f"--ctm {ctm}: word times would be written over audio; want --ctm FILE.ctm"
        )


def _with_streaming(config: Config, streaming: bool) -> Config:
    decode = replace(config.decode, streaming=streaming or config.decode.streaming)
    return replace(config, decode=decode)


def _transcribe(transcriber: Transcriber, files: Sequence[Path]) -> dict[Path, Transcript]:
    """Print each file's line as soon as it is known; name those that cannot be transcribed."""
    from lmu_asr.training.loop.step import is_out_of_memory

    found = {}
    for path in files:
        try:
            with regular_file(path) as file:
                found[path] = transcriber.transcribe(file)
        except (DataError, ModelError) as error:
            print(f"transcribe: not transcribed: {error}", file=sys.stderr)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = f"{path}: not enough memory: cut it into shorter files, or use --streaming"
            print(f"transcribe: not transcribed: {problem}", file=sys.stderr)
        else:
            print(f"{escaped(str(path), keep=' ')}\t{found[path].text}", flush=True)
    return found


def _write_ctm(path: Path, found: dict[Path, Transcript], transcriber: Transcriber) -> None:
    """Write word times; blanks in file names, which separate fields of a CTM, become ``%20``."""
    from lmu_asr.decoding.times import write_ctm

    unknown = [str(file) for file, one in found.items() if one.text and not one.spans]
    if unknown:
        logging.warning("%s: %s gives no word times", unknown[0], transcriber.method)
    spans = {escaped(str(file)): one.spans for file, one in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ctm(path, spans, transcriber.frame_seconds)


if __name__ == "__main__":
    end_quietly()
    sys.exit(main())
