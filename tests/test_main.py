"""The command `lmu-asr`: usage, list, dispatch, from any directory and from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lmu_asr import __main__ as command
from lmu_asr import __version__
from lmu_asr.config import Config, CorpusConfig
from lmu_asr.config_files import load_config, save_config
from lmu_asr.errors import StageError
from lmu_asr.recipes import first_comment, listing, recipe_names, recipes_dir
from lmu_asr.stages import align, transcribe
from lmu_asr.stages.context import places_of, save_places

ROOT = Path(__file__).resolve().parents[1]


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page for name in command.COMMANDS)
    assert f"{ROOT / 'run.sh'} --help" in page
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lmu-asr {__version__}\n"
    assert command.main([]) == 2
    assert capsys.readouterr() == ("", page)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("transcribbe", "unknown command 'transcribbe'; did you mean transcribe?"),
        ("compar", "did you mean compare?"),
        ("xyzzy", "known: transcribe, align, compare, clean, list"),
        ("--versoin", "unknown option '--versoin'"),
    ],
)
def test_unknown_commands(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([word, "--help"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", command.COMMANDS)
def test_each_command_has_help_under_its_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main([name, "--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: lmu-asr {name} ")
    with pytest.raises(SystemExit) as exit_:
        command.main([name, "--halp"])
    assert exit_.value.code == 2
    assert f"lmu-asr {name}: error: " in capsys.readouterr().err


def test_interrupted_and_unread_commands_leave_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: list[str], prog: str) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(align, "main", interrupted)
    assert command.main(["align"]) == 130
    pipe = f"{sys.executable} -c 'from lmu_asr.__main__ import main; raise SystemExit(main([\"list\"]))'"
    done = subprocess.run(["bash", "-c", f"{pipe} | true"], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert capfd.readouterr() == ("", "")


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(command.COMMANDS, "align", ("lmu_asr_missing.align", ""))
    assert command.main(["align"]) == 1
    assert "lmu_asr_missing is not installed; in a checkout" in capsys.readouterr().err


def test_the_list_has_every_recipe_and_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line}
    files = list(ROOT.glob("egs/**/conf/*.yaml"))
    assert len(files) > 40 and {p.stem for p in files} - {"default"} <= words
    assert set(recipe_names(ROOT / "egs")) <= words
    assert all(first_comment(path) for path in files)
    assert command.main(["list", "mini"]) == 0
    page = capsys.readouterr().out
    assert "  causal" in page and "aishell" not in page
    assert command.main(["list", "mni"]) == 2
    assert "did you mean mini?" in capsys.readouterr().err


def test_lines_of_the_list_are_lines(tmp_path: Path) -> None:
    (tmp_path / "a" / "conf").mkdir(parents=True)
    (tmp_path / "a/conf/default.yaml").write_text("# one\n# two " + "long " * 40 + "\nseed: 1\n")
    (tmp_path / "a/conf/none.yaml").write_text("seed: 1\n# later\n")
    first, second, *_ = listing(tmp_path)
    assert first.split()[:3] == ["a", "one", "two"] and len(first) <= 100
    assert second == "  none"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A configuration where stage 4 leaves it."""
    path = tmp_path / "work" / "exp" / "corp" / "small" / "config.yaml"
    save_config(Config(variant="small", corpus=CorpusConfig(id="corp")), path)
    return path


def test_a_saved_configuration_finds_its_directories(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, config = tmp_path / "work", load_config(saved)
    monkeypatch.chdir(tmp_path)
    assert places_of(saved, config) == (Path("work/data"), Path("work/exp"))
    monkeypatch.chdir(work)
    assert places_of(Path("exp/corp/small/config.yaml"), config) == (Path("data"), Path("exp"))
    monkeypatch.chdir(saved.parent)
    assert places_of(Path("config.yaml"), config) == (work / "data", work / "exp")
    save_places(saved.parent, tmp_path / "other data")
    assert places_of(saved, config) == (tmp_path / "other data", work / "exp")
    shutil.move(tmp_path / "work", tmp_path / "moved")  # with its data, to another place
    (tmp_path / "moved/exp/corp/small/places.json").unlink()
    moved = tmp_path / "moved/exp/corp/small/config.yaml"
    assert places_of(moved, config) == (tmp_path / "moved/data", tmp_path / "moved/exp")
    shutil.copy(moved, tmp_path / "config.yaml")
    assert places_of(tmp_path / "config.yaml", config) == (Path("data"), Path("exp"))
    (moved.parent / "places.json").write_text("[1]")
    with pytest.raises(StageError, match=r"places.json: not valid.*--data-dir"):
        places_of(moved, config)


def test_transcription_from_another_directory_looks_beside_the_configuration(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for main, more in ((transcribe.main, ["a.wav"]), (align.main, [])):
        assert main(["--config", str(saved), *more]) == 1
        assert "work/data/corp" in capsys.readouterr().err
        assert main(["--config", str(saved), "--data-dir", "elsewhere", *more]) == 1
        assert "elsewhere/corp" in capsys.readouterr().err


def test_the_script_works_from_any_directory_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "lmu-asr").symlink_to(ROOT / "utils" / "bin" / "lmu-asr")
    (tmp_path / "a b" / "json.py").write_text("raise SystemExit(9)")
    done = subprocess.run(
        ["./lmu-asr", "list", "yesno"],
        cwd=tmp_path / "a b",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CDPATH": "/"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("yesno ")


@pytest.mark.slow
def test_a_wheel_carries_the_recipes_the_command_and_the_licence(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("lmu_asr", "egs", "utils"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    offline = {**os.environ, "PIP_NO_INDEX": "1"}
    subprocess.run([*build, "-w", tmp_path, source], check=True, env=offline)
    (wheel,) = tmp_path.glob("lmu_asr-*.whl")
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    carried = {p.relative_to(place / "lmu_asr").as_posix() for p in place.rglob("egs/**/*.yaml")}
    assert carried == {p.relative_to(ROOT).as_posix() for p in ROOT.glob("egs/**/conf/*.yaml")}
    (meta,) = place.glob("lmu_asr-*.dist-info")
    assert "lmu-asr = lmu_asr.__main__:main" in (meta / "entry_points.txt").read_text()
    assert "License-Expression: Apache-2.0" in (meta / "METADATA").read_text()
    assert (meta / "licenses/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "lmu_asr", "list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert "\n  causal " in done.stdout
    configured = subprocess.run(
        [sys.executable, "-m", "lmu_asr.stages.configure", "--recipe", "yesno", "--exp-dir", "e"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    config = load_config(tmp_path / configured.stdout.strip())
    assert Path(config.lang.lexicon) == place / "lmu_asr/egs/yesno/lexicon.txt"
    assert Path(config.lang.lexicon).is_file() and recipes_dir() == ROOT / "egs"
