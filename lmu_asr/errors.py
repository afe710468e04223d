"""Every error that bad input can raise, one base class so that a stage prints it without a traceback."""

from __future__ import annotations


class LmuAsrError(Exception):
    """Base of all errors of the package: the message says what, where, both values, and what to do."""


class ConfigError(LmuAsrError):
    """An unknown key, a wrong type or a value out of range in a configuration."""


class DataError(LmuAsrError):
    """Audio, text or a manifest that cannot be used."""


class LangError(LmuAsrError):
    """A lexicon, tokenizer or lang directory that is inconsistent."""


class GraphError(LmuAsrError):
    """A decoding graph or language model that is broken or belongs to another lang directory."""


class ModelError(LmuAsrError):
    """A model that cannot be built, or that a given input does not fit."""


class CheckpointError(LmuAsrError):
    """A checkpoint that is cut, changed, or of another model, manifest or lang directory."""


class TrainingError(LmuAsrError):
    """A training run that cannot go on."""


class StageError(LmuAsrError):
    """A stage that was asked for before its input exists, or whose output cannot be written."""


class RemoteError(LmuAsrError):
    """A bucket that cannot be read or written."""
