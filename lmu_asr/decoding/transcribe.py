"""Transcription of single audio files with a trained model.

Shapes: T frames, T' frames after subsampling, F features, V vocabulary.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import lilcom
import numpy as np
import torch
from lhotse import MonoCut
from lhotse.features.compression import lilcom_compress_chunked
from lhotse.features.io import LilcomChunkyWriter
from numpy.typing import NDArray

from lmu_asr.config import Config, DecodeConfig, FeaturesConfig
from lmu_asr.data.audio.mono import SilentAudioError
from lmu_asr.data.audio.reader import recording_from_file
from lmu_asr.data.features.fbank import Extractor, frame_count, get_extractor
from lmu_asr.data.features.part import converted
from lmu_asr.data.features.part import read_mono as read_cut
from lmu_asr.decoding.align import Span
from lmu_asr.decoding.decode import make_decoder
from lmu_asr.decoding.decoder import Decoder
from lmu_asr.decoding.methods import find_method
from lmu_asr.decoding.posteriors import PosteriorBatch, stream_utterance
from lmu_asr.decoding.times import hypothesis_spans
from lmu_asr.decoding.trained import Trained, load_trained
from lmu_asr.decoding.tune import Scales, describe_scales, load_scales, scale_axes
from lmu_asr.errors import ConfigError, DataError
from lmu_asr.files import read_json
from lmu_asr.lang.lang import Lang


@dataclass(frozen=True)
class Transcript:
    """Text of one file, and its words in frames after subsampling where the search knows them."""

    text: str
    spans: list[Span]


@dataclass(frozen=True)
class Transcriber:
    """A trained model with one search at fixed scales, for any number of files."""

    config: Config
    trained: Trained
    decoder: Decoder
    method: str
    scales: Scales
    extractor: Extractor
    device: torch.device

    @classmethod
    def open(
        cls,
        config: Config,
        exp_dir: Path,
        lang_dir: Path,
        graph_dir: Path,
        method: str = "",
        device: torch.device | str | None = None,
    ) -> Transcriber:
        """Load everything once.

        Args:
            config: the resolved configuration; ``decode.checkpoint`` names the model, and
                ``decode.streaming`` sends each file through it in chunks.
            exp_dir: experiment directory with the checkpoint and, after stage 5, the scales.
            lang_dir: lang directory.
            graph_dir: directory of the graph that the method needs.
            method: a row of :mod:`lmu_asr.decoding.methods`; empty: the last of ``decode.methods``.
            device: where the model runs; None: the GPU if there is one.

        Raises:
            ConfigError: unknown method, or none.
            CheckpointError, GraphError, LangError: an input that is missing, broken or of another
                lang.
            ModelError: streaming is asked of a model that cannot.
        """
        method = _checked_method(method, config.decode)
        # so that only the graph and models of this method are loaded
        config = replace(config, decode=replace(config.decode, methods=[method]))
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        lang = Lang.load(lang_dir)
        trained = load_trained(config, exp_dir, lang)
        trained.model.to(place)
        if config.decode.streaming:
            trained.model.init_state(1, place)  # a model that cannot stream says so here
        decoder = make_decoder(config, lang, graph_dir, trained.model.head)
        path = exp_dir / config.decode.directory / "scales.json"
        scales = _choose_scales(path, method, config.decode, trained, lang)
        extractor = get_extractor(config.features)
        return cls(config, trained, decoder, method, scales, extractor, place)

    @property
    def frame_seconds(self) -> float:
        """Seconds of one frame after subsampling."""
        return self.trained.model.subsampling_factor * self.config.features.frame_shift_ms / 1000.0

    def transcribe(self, path: Path) -> Transcript:
        """Transcribe one audio file of any sample rate; its channels are averaged.

        A file of one value throughout, digital silence, has no words, and that is said.

        Raises:
            DataError: unreadable, cut-short or too short audio, or samples or log-probabilities
                that are not finite.
            ModelError: the features do not fit the model.
        """
        try:
            features = self._features(path)
        except SilentAudioError as error:
            logging.warning("no words: %s", error)
            return Transcript("", [])
        batch = self._log_probs(path, features)
        hypothesis = self.decoder.search_batch(batch, self.method, self.scales)[0]
        if hypothesis.fallback:
            logging.warning("%s: no path in the graph: decoded greedily", path)
        text = self.decoder.hypothesis_text(self.method, hypothesis)
        return Transcript(text, hypothesis_spans(hypothesis))

    def _features(self, path: Path) -> NDArray[np.float32]:
        """Features (T, F) as stage 1 computes and stores them."""
        options = self.config.features
        samples = read_mono(path, options)
        lens = torch.tensor([frame_count(len(samples), options)])
        if int(self.trained.model.output_lens(lens)) < 1:
            raise DataError(f"{path}: too short: {int(lens)} frames give the model no output frame")
        torch.manual_seed(self.config.seed)  # of the dither
        features = self.extractor(samples)
        if not np.isfinite(features).all():
            raise DataError(f"{path}: NaN or infinite features")
        return as_stored(features)

    @torch.inference_mode()
    def _log_probs(self, path: Path, features: NDArray[np.float32]) -> PosteriorBatch:
        """Log-probabilities (1, T', V) of features (T, F)."""
        model, decode = self.trained.model, self.config.decode
        frames = torch.from_numpy(features).to(self.device)
        if decode.streaming:
            chunk = round(decode.chunk_ms / self.config.features.frame_shift_ms)
            log_probs = stream_utterance(model, frames, chunk)[None]
            lens = torch.tensor([log_probs.shape[1]])
        else:
            log_probs, lens = model(frames[None], torch.tensor([len(frames)], device=self.device))
        return PosteriorBatch([str(path)], log_probs.float().cpu(), lens.to("cpu", torch.int64))


def read_mono(path: Path, options: FeaturesConfig) -> NDArray[np.float32]:
    """Read a whole file at ``features.sample_rate``, its channels averaged: samples, full scale 1.

    Raises:
        SilentAudioError: all samples are the same.
        DataError: unreadable, cut short, shorter than ``features.min_duration``, or samples that
            are not finite.
    """
    recording = recording_from_file(path, str(path))
    seconds = recording.duration
    if seconds < options.min_duration:
        raise DataError(
            f"{path}: too short: {seconds:.3f} s, features.min_duration is {options.min_duration} s"
        )
    if seconds > options.max_duration:
        logging.warning(
            "%s: %.1f s, longer than the %g s that training saw at most (features.max_duration): "
            "cut it at pauses if the text is poor",
            path,
            seconds,
            options.max_duration,
        )
    channels = list(recording.channel_ids)
    cut = MonoCut(str(path), 0.0, seconds, 0, recording=recording, custom={"channels": channels})
    mono = read_cut(cut)
    for repair in mono.repairs:
        logging.warning("%s: %s", path, repair)
    return converted(mono, cut, 1.0, seconds, options.sample_rate)


def as_stored(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round features (T, F) as the archives of stage 1 do, by 1/64 at most: what training read."""
    size = LilcomChunkyWriter.CHUNK_SIZE
    chunks = lilcom_compress_chunked(features.copy(), chunk_size=size)  # it writes to its input
    return np.concatenate([lilcom.decompress(chunk) for chunk in chunks])


def _checked_method(method: str, decode: DecodeConfig) -> str:
    if not method and not decode.methods:
        raise ConfigError("decode.methods is empty: name a method")
    method = method or decode.methods[-1]
    find_method(method)
    return method


def _choose_scales(
    path: Path, method: str, decode: DecodeConfig, trained: Trained, lang: Lang
) -> Scales:
    """The scales that stage 5 tuned for the method, else the least of each list; says which."""
    tuned = load_scales(path) if path.is_file() else {}
    if method not in tuned:
        axes = scale_axes(method, decode)
        scales = Scales(**{name: values[0] for name, values in axes.items()})
        logging.warning(
            "%s has no scales of %s (run stage 5 to tune them): using the smallest of each list: %s",
            path,
            method,
            describe_scales(method, scales),
        )
        return scales
    keys = read_json(path).get("keys")
    keys = keys if isinstance(keys, dict) else {}
    if (keys.get("checkpoint"), keys.get("lang")) != (trained.sha256, lang.fingerprint):
        logging.warning(
            "%s: scales tuned with another checkpoint or lang directory than %s; run stage 5 again",
            path,
            trained.path,
        )
    scales = tuned[method].scales
    logging.info("%s: %s, from %s", method, describe_scales(method, scales), path)
    return scales
