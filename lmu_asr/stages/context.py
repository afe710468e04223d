"""One run of one stage: its configuration, its directories, and the options that name them."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmu_asr.config import Config
from lmu_asr.config_files import load_config
from lmu_asr.data.importing.list_names import is_remote_list
from lmu_asr.errors import StageError
from lmu_asr.files import read_json, write_json
from lmu_asr.remote import is_remote
from lmu_asr.stages.names import features_name, graph_name, lang_name

PLACES = "places.json"
DECODED = "config.yaml"  # in a directory of stage 5: what it decoded with
OWN_COPY = ".resolved-"  # of the configuration of one run


@dataclass(frozen=True)
class Context:
    """One run of one stage: the configuration and the directories it works in."""

    config: Config
    data_root: Path
    exp_root: Path
    recipe: str
    nj: int
    force: bool = False
    ray: bool = False

    @property
    def corpus_id(self) -> str:
        """Directory name of the corpus."""
        return self.config.corpus.id or self.config.corpus.name

    @property
    def corpus_dir(self) -> Path:
        """Everything prepared of this corpus."""
        return self.data_root / self.corpus_id

    @property
    def source_dir(self) -> Path:
        """The corpus as downloaded, or the user's own copy where that is on this machine."""
        source = self.config.corpus.source
        if self.has_own_copy:
            return Path(source)
        folder = self.corpus_dir / "source"
        return folder / source.rpartition("/")[2] if is_remote_list(source) else folder

    @property
    def has_own_copy(self) -> bool:
        """Whether the corpus is read where the user has it, and nothing is fetched."""
        source = self.config.corpus.source
        return bool(source) and not is_remote(source)

    @property
    def features_dir(self) -> Path:
        """Cuts, features and statistics."""
        return self.corpus_dir / features_name(self.config)

    @property
    def lang_dir(self) -> Path:
        """Lang directory of the output unit."""
        return self.corpus_dir / lang_name(self.config)

    @property
    def graph_dir(self) -> Path:
        """Language model and decoding graphs."""
        return self.lang_dir / graph_name(self.config)

    @property
    def exp_dir(self) -> Path:
        """Experiment directory of the variant."""
        return self.exp_root / self.corpus_id / self.config.variant

    @property
    def decode_dir(self) -> Path:
        """Where decoding writes."""
        return self.exp_dir / self.config.decode.directory

    @property
    def results_dir(self) -> Path:
        """Where the table across variants goes."""
        return self.exp_root / self.corpus_id


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every stage and the set-up of a run take."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the variant")
    parser.add_argument("--recipe", default="", help="name of the recipe, for messages")
    parser.add_argument(
        "--data-dir", type=Path, help="prepared data (as the place of --config tells, else data)"
    )
    parser.add_argument(
        "--exp-dir", type=Path, help="experiments (as the place of --config tells, else exp)"
    )
    parser.add_argument("--nj", type=int, default=os.cpu_count() or 1, help="parallel jobs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override")


def make_context(config: Config, args: argparse.Namespace) -> Context:
    """Return the run that the options of :func:`add_common_arguments` describe.

    Directories that were not given are those that the configuration lies in, where it lies in
    ``<exp-dir>/<corpus>/<variant>/``; so a saved one works from any directory.
    """
    data_dir, exp_dir = places_of(args.config, config)
    force, ray = getattr(args, "force", False), getattr(args, "ray", False)
    directories = args.data_dir or data_dir, args.exp_dir or exp_dir
    return Context(config, *directories, args.recipe, args.nj, force, ray)


def places_of(path: Path, config: Config) -> tuple[Path, Path]:
    """Return the directories of data and experiments that go with a configuration's file."""
    folder = path.absolute().parent
    corpus = config.corpus.id or config.corpus.name
    if (folder.parent.name, folder.name) != (corpus, config.variant):
        return Path("data"), Path("exp")
    exp_dir = folder.parents[1]
    record = folder / PLACES
    try:
        data_dir = folder / read_json(record)["data_dir"]
    except FileNotFoundError:
        data_dir = exp_dir.parent / "data"
    except (ValueError, TypeError, KeyError) as error:
        raise StageError(f"{record}: not valid ({error}); remove it, or give --data-dir") from error
    return _shorter(data_dir), _shorter(exp_dir)


def trained_config(path: Path, sets: Sequence[str]) -> Config:
    """Read the configuration of a trained model, with the search that stage 5 tuned for it last.

    ``config.yaml`` is that of training. Lexicon and language model may have changed since, which
    keeps the model.
    """
    config = load_config(path, sets)
    decoded = path.parent / config.decode.directory / DECODED
    if path.name != "config.yaml" or not decoded.is_file():
        return config
    logging.info("lexicon, language model and search are those of %s", decoded)
    return load_config(decoded, sets)


def save_places(folder: Path, data_dir: Path) -> None:
    """Record beside a saved configuration where its prepared data are."""
    # relative, so that data and experiments can be moved together
    write_json(folder / PLACES, {"data_dir": os.path.relpath(data_dir, folder)})


def _shorter(path: Path) -> Path:
    """The path from the working directory where it lies below."""
    path = Path(os.path.normpath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def add_range_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which stages of a run are wanted, and what trains."""
    parser.add_argument("--stage", type=int, help="first stage of the run")
    parser.add_argument("--stop-stage", type=int, default=6, help="last stage of the run")
    parser.add_argument("--launcher", default="auto", help="as run.sh has it, and the next four")
    parser.add_argument("--ngpu", default="auto")
    parser.add_argument("--nproc", default="1")
    parser.add_argument("--num-nodes", default="1")
    parser.add_argument("--node-rank", default="0")


def launch_arguments(args: argparse.Namespace) -> list[str]:
    """Return the options for :mod:`lmu_asr.training.launch.start`; none where they ask for nothing."""
    names = ("launcher", "ngpu", "nproc", "num_nodes", "node_rank")
    values = {name: getattr(args, name) for name in names}
    one_machine = str(values["node_rank"]) == "0"
    if values["launcher"] == "auto" and values["ngpu"] in ("auto", "0") and one_machine:
        return []  # torch need not be loaded to find that this works
    return [item for name in names for item in ("--" + name.replace("_", "-"), values[name])]
