"""Speech synthesis by espeak-ng, the library of the ``espeakng-loader`` wheel driven by ctypes.

The library keeps state between utterances (flutter) that no call of it resets, so an utterance
depends on what was spoken before; its noise is drawn from a seed that it takes from the clock, and
that is set here. Whoever wants the same samples in any order forks a
process for each utterance after :class:`Espeak` is made (see :mod:`lmu_asr.corpora.render`).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

from lmu_asr.errors import DataError

SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: no audio device, samples go to the callback
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
UTF8 = 1
SYNTH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker.

    Attributes:
        name: accent and variant, such as ``en-gb-scotland+m5``.
        rate: speed, in words a minute.
        pitch: base pitch, 0 to 99.
        range: pitch range, 0 (monotone) to 99.
    """

    name: str
    rate: int
    pitch: int
    range: int


class Espeak:
    """The loaded library. One of them in a process at most."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self._lib.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate: int = self._lib.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if self.sample_rate <= 0:
            raise DataError(f"espeak-ng does not start with its data in {data.decode()}")
        self._blocks: list[bytes] = []
        self._callback = SYNTH_CALLBACK(self._collect)  # kept: the library holds its address
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes.c_void_p, count: int, events: int) -> int:
        if samples and count > 0:
            self._blocks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, text: str, voice: Voice) -> NDArray[np.int16]:
        """Return ``text`` spoken by ``voice``: samples (num_samples,) at ``sample_rate`` hertz.

        Raises:
            DataError: the wheel has no such voice, or the library made no sound.
        """
        if self._lib.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise DataError(f"espeak-ng has no voice '{voice.name}'")
        for parameter, value in ((RATE, voice.rate), (PITCH, voice.pitch), (RANGE, voice.range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._lib.espeak_ng_SetRandSeed(1)
        self._blocks.clear()
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
        self._lib.espeak_Synchronize()
        if not self._blocks:
            raise DataError(f"espeak-ng made no sound for '{text}' with voice '{voice.name}'")
        return np.frombuffer(b"".join(self._blocks), dtype=np.int16)
