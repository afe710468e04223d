"""Corpora in miniature, in their real layout: names, transcripts and audio formats."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from tests.data.encoded import encode
from tests.data.speech import noise

Files = dict[str, bytes]


def audio(suffix: str, seconds: float = 0.6, rate: int = 16000, channels: int = 1) -> bytes:
    """Noise as the bytes of a file."""
    formats = {
        "wav": {"format": "WAV"},
        "flac": {"format": "FLAC"},
        "mp3": {"format": "MP3"},
        "opus": {"format": "OGG", "subtype": "OPUS"},
        "sph": {"format": "NIST", "subtype": "PCM_16", "endian": "BIG"},
        "ulaw": {"format": "NIST", "subtype": "ULAW"},
    }
    stream = io.BytesIO()
    samples = np.asarray(noise(seconds, int(100 * seconds), channels, rate))
    soundfile.write(stream, samples, rate, **formats[suffix])
    return stream.getvalue()


def mp3_without_header(seconds: float, rate: int) -> bytes:
    """Noise as an MP3 without Xing header, as encoders that write to a pipe leave it."""
    samples = np.asarray(noise(seconds, int(100 * seconds), 1, rate), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = encode(Path(folder, "a.mp3"), [samples.reshape(1, -1)], rate, "mp3", write_xing="0")
        content = path.read_bytes()
    assert b"Xing" not in content and b"Info" not in content
    return content


def packed(files: Files) -> bytes:
    """The files as a compressed tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def librispeech(part: str) -> Files:
    """One part of LibriSpeech: two speakers, a chapter each."""
    files: Files = {"LibriSpeech/README.TXT": b"about"}
    for speaker in (f"{len(part)}{ord(part[0])}", f"{len(part)}{ord(part[-1])}9"):
        folder = f"LibriSpeech/{part}/{speaker}/121123"
        lines = []
        for i in range(3):
            name = f"{speaker}-121123-{i:04d}"
            files[f"{folder}/{name}.flac"] = audio("flac", 0.5 + i / 10)
            lines.append(f"{name} GO DO YOU HEAR {['ONE', 'TWO', 'THREE'][i]}\n")
        files[f"{folder}/{speaker}-121123.trans.txt"] = "".join(lines).encode()
    return files


def yesno() -> Files:
    """Sixty files of eight words."""
    names = ["_".join(f"{i:06b}") + "_0_1" for i in range(60)]
    files = {f"waves_yesno/{name}.wav": audio("wav", 0.6, 8000) for name in names}
    return {"waves_yesno/README": b"about", **files}


def fsdd() -> Files:
    """Two speakers, ten digits, twelve takes."""
    root = "free-spoken-digit-dataset-1.0.10"
    files = {
        f"{root}/recordings/{digit}_{speaker}_{take}.wav": audio("wav", 0.3, 8000)
        for digit in range(10)
        for speaker in ("george", "nicolas")
        for take in range(12)
    }
    return {f"{root}/README.md": b"about", **files}


def an4() -> Files:
    """Three hundred short words: 105 to train, 6 to test."""
    files: Files = {}
    for split, count in (("train", 105), ("test", 6)):
        folder = "an4_clstk" if split == "train" else "an4test_clstk"
        names = [f"an{i}-fash-{split[1]}" for i in range(count)]
        ids = "".join(f"{folder}/fash/{name}\n" for name in names)
        mark = ("<s> ", " </s>") if split == "train" else ("", "")
        lines = "".join(f"{mark[0]}RUBOUT G M{mark[1]} ({name})\n" for name in names)
        files[f"an4/etc/an4_{split}.fileids"] = ids.encode()
        files[f"an4/etc/an4_{split}.transcription"] = lines.encode()
        for name in names:
            files[f"an4/wav/{folder}/fash/{name}.sph"] = audio("sph", 0.3)
    return files


def aishell() -> Files:
    """One speaker a split, each in an archive of its own; one file has no transcript."""
    lines, files = [], {}
    for split, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        names = [f"BAC009{speaker}W{i:04d}" for i in range(122, 126)]
        lines += [f"{name} 绿色 植物 ｋ 歌\n" for name in names[:3]]
        wavs = {f"{split}/{speaker}/{name}.wav": audio("wav", 0.5) for name in names}
        files[f"data_aishell/wav/{speaker}.tar.gz"] = packed(wavs)
    files["data_aishell/transcript/aishell_transcript_v0.8.txt"] = "".join(lines).encode()
    return files


def speechocean762() -> Files:
    """Twelve training speakers and two others."""
    files: Files = {}
    for split, speakers in (("train", range(1, 13)), ("test", range(13, 15))):
        scp, text, utt2spk = [], [], []
        for speaker in speakers:
            for take in range(2):
                name, owner = f"{speaker:05d}{take:04d}", f"{speaker:04d}"
                path = f"WAVE/SPEAKER{owner}/{name}.WAV"
                files[f"speechocean762/{path}"] = audio("wav", 0.8)
                scp.append(f"{name}\t{path}\n")
                text.append(f"{name}\tMARK IS GOING TO SEE ELEPHANT\n")
                utt2spk.append(f"{name}\t{owner}\n")
        for kind, lines in (("wav.scp", scp), ("text", text), ("utt2spk", utt2spk)):
            files[f"speechocean762/{split}/{kind}"] = "".join(lines).encode()
    return files


def tedlium3() -> Files:
    """One talk a split, four segments, one of them not to be scored."""
    files: Files = {}
    for split, talk in (("train", "AalKoirala"), ("dev", "AlGore_2009"), ("test", "AimeeMullins")):
        lines = [
            ";; a comment",
            f"{talk} 1 {talk} 0.00 0.50 <o,f0,male> it 's the <unk> {{NOISE}} we 've seen",
            f"{talk} 1 inter_segment_gap 0.50 0.60 <o,f0,> ignore_time_segment_in_scoring",
            f"{talk} 1 {talk} 0.60 1.20 <o,f0,male> don 't do that(2)",
            f"{talk} 1 {talk} 1.20 1.90 <o,f0,male> thank you",
        ]
        root = f"TEDLIUM_release-3/legacy/{split}"
        files[f"{root}/stm/{talk}.stm"] = ("\n".join(lines) + "\n").encode()
        files[f"{root}/sph/{talk}.sph"] = audio("sph", 2.0)
    return files


def commonvoice() -> Files:
    """Three tables over one directory of clips."""
    header = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    files: Files = {}
    for split in ("train", "dev", "test"):
        rows = []
        for i in range(3):
            name = f"common_voice_en_{split}{i}.mp3"
            files[f"cv-corpus/en/clips/{name}"] = mp3_without_header(0.5, 48000)
            rows.append(f'speaker{i}\t{name}\t"Hello," she said: it\u2019s well-known!\t2\ten\n')
        files[f"cv-corpus/en/{split}.tsv"] = (header + "".join(rows)).encode()
    return files


PROGRAMS = {  # stand-ins: they print what the real ones would have decoded, and log that they ran
    "flac": '[ "$1 $2 $3" = "-c -d -s" ] && cat "$4.wav"',
    "sph2pipe": '[ "$1 $2 $3 $4 $5" = "-f wav -p -c 1" ] && cat "$6.wav"',
    "sox": '[ "$2 $3 $4 $5 $6" = "-t wav - remix 1" ] && if [ "$1" = - ]; then cat; else cat "$1.wav"; fi',
}
COMMANDS = (
    "flac -c -d -s audio/{0}.flac |",
    "sph2pipe -f wav -p -c 1 audio/{0}.sph |",
    "sox audio/{0}.mp3 -t wav - remix 1 |",
    "flac -c -d -s 'audio/{0}.flac' | sox - -t wav - remix 1 |",
)


def kaldi_of_commands(root: Path, count: int = 32) -> Path:
    """A Kaldi working directory: ``data/all`` of commands, their audio in ``audio``, programs in ``bin``."""
    for name, script in PROGRAMS.items():
        path = root / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {name} >> ran.log\n{script}\n")
        path.chmod(0o755)
    folder, lines = root / "data" / "all", []
    folder.mkdir(parents=True)
    (root / "audio").mkdir()
    for i in range(count):
        command = COMMANDS[i % len(COMMANDS)].format(f"u{i:02d}")
        named = re.search(r"audio/[^ ']+", command)[0]
        (root / named).write_bytes(b"what the program reads")
        content = bytearray(audio("wav", 0.5 + i / 100))
        content[40:44] = (0x7FFFF000).to_bytes(4, "little")  # a stream does not know its length
        (root / f"{named}.wav").write_bytes(content)
        lines.append(f"u{i:02d} {command}\n")
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "text").write_text("".join(f"u{i:02d} well yes\n" for i in range(count)))
    (folder / "utt2spk").write_text("".join(f"u{i:02d} s{i % 4}\n" for i in range(count)))
    return folder


def gigaspeech() -> Files:
    """Three recordings in Opus with segments of several subsets."""
    audios, files = [], {}
    texts = [
        "AS THEY'RE LEAVING <COMMA> CAN KASH PULL ZAHRA ASIDE <QUESTIONMARK>",
        "<MUSIC>",
        "UM WELL <COMMA> THIRTY-FIVE UH <PERIOD>",
        "GO <EXCLAMATIONPOINT>",
    ]
    for number, subsets in enumerate((["{XL}", "{XS}"], ["{DEV}"], ["{TEST}"])):
        aid = f"POD000000000{number}"
        path = f"audio/podcast/P0000/{aid}.opus"
        files[path] = audio("opus", 2.4, 48000)
        segments = [
            {
                "sid": f"{aid}_S{i:07d}",
                "begin_time": 0.6 * i,
                "end_time": 0.6 * i + 0.5,
                "text_tn": text,
                "subsets": subsets if i < 3 else subsets[:1],
            }
            for i, text in enumerate(texts)
        ]
        audios.append({"aid": aid, "path": path, "subsets": subsets, "segments": segments})
    index = {"dataset": "GigaSpeech", "version": "v1.0.0", "audios": audios}
    files["GigaSpeech.json"] = json.dumps(index, indent=1).encode()
    return files


def switchboard() -> Files:
    """Three conversations of two sides, and one of the evaluation."""
    files: Files = {}
    for call in (2001, 2005, 2006):
        files[f"swb1_d1/data/sw0{call}.sph"] = audio("ulaw", 3.0, 8000, 2)
        for side in "AB":
            name = f"sw{call}{side}-ms98-a"
            texts = ["[silence]", "okay [laughter-yes] th[is]- uh-huh", "um {alrighty} [noise]"]
            lines = [f"{name}-{i:04d} {i:.6f} {i + 0.9:.6f} {t}\n" for i, t in enumerate(texts, 0)]
            path = f"swb_ms98_transcriptions/20/{call}/{name}-trans.text"
            files[path] = "".join(lines).encode()
    segments = [
        ";; CATEGORY",
        "en_4156 A en_4156_A 0.10 0.90 <O,en,F,en-F> (%hesitation) i don't know",
        "en_4156 A en_4156_A 0.90 1.00 <O,en,F,en-F> IGNORE_TIME_SEGMENT_IN_SCORING",
        "en_4156 B en_4156_B 1.00 1.90 <O,en,F,en-F> (uh-huh) well th- that's it",
    ]
    stm = "2000_hub5_eng_eval_tr/reference/hub5e00.english.000405.stm"
    files[stm] = ("\n".join(segments) + "\n").encode()
    files["hub5e_00/english/en_4156.sph"] = audio("ulaw", 2.0, 8000, 2)
    return files


def asterisk(texts: dict[str, str], size: int = 1600) -> dict[str, Files]:
    """Contents of both packages: prompts of ``size`` random bytes, a nested one, a sound."""
    sounds = "usr/share/asterisk/sounds/en_US_f_Allison"
    rng = random.Random(0)
    prompts = {f"{sounds}/{name}.g722": rng.randbytes(size) for name in texts}
    prompts[f"{sounds}/digits/7.g722"] = rng.randbytes(size)
    prompts[f"{sounds}/beep.g722"] = rng.randbytes(1600)
    lines = ["; a comment", "", "beep: [a tone]", "digits/7: seven", "not-there: no audio"]
    lines += [f"{name}: {text}" for name, text in texts.items()]
    listing = gzip.compress("\n".join(lines).encode())
    return {
        "asterisk-core-sounds-en-g722": prompts,
        "asterisk-core-sounds-en": {
            "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz": listing
        },
    }


def debian_package(name: str, files: Files, folder: Path) -> None:
    """Pack files as ``<name>_1_all.deb`` in a directory."""
    root = folder / name
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    for path, content in {**files, "DEBIAN/control": control.encode()}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    package = folder / f"{name}_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(package)], check=True, capture_output=True)
