"""How a search goes: beams and scales, wider and narrower attempts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmu_asr.config import DecodeConfig

RETRY_WIDER = 2.0
RETRY_NARROWER = 0.6


@dataclass(frozen=True)
class SearchOptions:
    """How to search; beams are in units of scaled log probability.

    Attributes:
        search_beam: width of the search; a state this much worse than the best is dropped.
        lattice_beam: width of the lattice that is kept.
        max_active: states kept at each frame.
        acoustic_scale: factor of the log posteriors.
        lm_scale: factor of the graph's log probabilities.
        blank_penalty: taken from the log posterior of blank in every frame.
        beam: prefixes kept by prefix beam search.
        nbest: paths of n-best methods.
    """

    search_beam: float = 16.0
    lattice_beam: float = 8.0
    max_active: int = 7000
    acoustic_scale: float = 1.0
    lm_scale: float = 1.0
    blank_penalty: float = 0.0
    beam: int = 8
    nbest: int = 50

    @staticmethod
    def from_config(config: DecodeConfig) -> SearchOptions:
        """Take the beams from the configuration and the first of each list of scales."""
        return SearchOptions(
            search_beam=config.search_beam,
            lattice_beam=config.lattice_beam,
            max_active=config.max_active,
            acoustic_scale=config.acoustic_scales[0],
            lm_scale=config.lm_scales[0],
            blank_penalty=config.blank_penalties[0],
            beam=config.beam,
            nbest=config.nbest,
        )

    def wider(self) -> SearchOptions:
        """Return the options of the second attempt after a search that reached no final state."""
        return replace(
            self,
            search_beam=self.search_beam * RETRY_WIDER,
            max_active=int(self.max_active * RETRY_WIDER),
        )

    def narrower(self) -> SearchOptions:
        """Return the options of the next attempt after a search that ran out of memory."""
        return replace(
            self,
            search_beam=self.search_beam * RETRY_NARROWER,
            lattice_beam=self.lattice_beam * RETRY_NARROWER,
            max_active=max(int(self.max_active * RETRY_NARROWER), 20),
        )
