"""The figures of a teacher's self-check, and what may be wrong with a teacher."""

import json
from dataclasses import dataclass

REMEDIES = {
    "preprocessing": "Compare mean, std and interpolation with those that the weights were trained with.",
    "activation": "Name the tag that the file belongs to (open_clip:MODEL/TAG@FILE), or set quick_gelu in the folder's "
    "open_clip_config.json.",
    "weights": "Download them again, or name the model that they belong to.",
    "text": "Check the tokenizer, the case of the texts and the number of tokens that they are padded to.",
    "cells": "Use `--set embed.local=tiles` or `--set embed.local=none`.",
}
"""What may be wrong with a teacher, and what to do about it."""


@dataclass(frozen=True)
class Check:
    """One figure of a teacher, and what is likely wrong with the teacher if it fails."""

    name: str
    value: float
    """A cosine, or a share of the cut-outs."""
    needed: float
    suspect: str = ""
    """One of `REMEDIES`; empty for a check that passed."""

    @property
    def figure(self) -> str:
        """The value and its limit as text."""
        if self.name.startswith("cut-outs"):
            return f"{self.value:.1%} named right, needs {self.needed:.0%}"
        return f"cosine {self.value:.6f}, needs {self.needed}"


@dataclass(frozen=True)
class SelfCheck:
    """The checks of a teacher on one device, the most basic first."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if check.suspect]

    def attribute(self) -> str:
        """The values as JSON, rounded so that they do not depend on the order of additions."""
        return json.dumps({check.name: round(check.value, 4) for check in self.checks})
