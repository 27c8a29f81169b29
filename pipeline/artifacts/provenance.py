"""Where an artifact came from: what decides its content, as a fingerprint."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runs.graph import MAKERS, VERSIONS, remedy
from pipeline.system.errors import PipelineError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Provenance:
    """Where an artifact came from; two artifacts with one fingerprint were made from the same in the same way."""

    schema: str
    """The name of its file without the ending."""
    version: int
    config: Mapping[str, Any]
    """Options of the stage that decide the content; files among them by the hash of their content."""
    inputs: Mapping[str, str]
    """File name in the run folder to fingerprint, of everything that the stage read."""
    formulas: Mapping[str, int] = field(default_factory=dict)
    """Module of `pipeline.method` to its version, of those that decide the content."""
    uses_ground_truth: bool = False
    """True if the stage, or one before it, looked at labels: a study, or thresholds calibrated on labelled photos."""

    @property
    def seed(self) -> int | None:
        """Seed of the stage's random draws; None for a stage without any."""
        return self.config.get("seed")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the content, 16 hex digits; known before the stage has run."""
        content = json.dumps([self.schema, self.version, self.config, self.inputs, self.formulas], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def of(self, name: str) -> "Provenance":
        """The same origin for another file that the stage writes."""
        schema = Path(name).stem
        return replace(self, schema=schema, version=VERSIONS[schema])

    def to_attributes(self) -> dict[str, Any]:
        """Flat attributes as they stand in a file."""
        attributes = {
            "schema": self.schema,
            "version": self.version,
            "config": json.dumps(self.config, sort_keys=True),
            "inputs": json.dumps(self.inputs, sort_keys=True),
            "formulas": json.dumps(self.formulas, sort_keys=True),
            "fingerprint": self.fingerprint,
            "uses_ground_truth": self.uses_ground_truth,
        }
        return attributes if self.seed is None else {**attributes, "seed": self.seed}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> "Provenance":
        """Inverse of `to_attributes`; raises KeyError, TypeError or ValueError for a file that is not ours."""
        config, inputs = (json.loads(attributes[name]) for name in ("config", "inputs"))
        formulas = json.loads(attributes.get("formulas", "{}"))
        if not all(isinstance(value, dict) for value in (config, inputs, formulas)):
            raise ValueError("its origin is not written as it should be")
        if unknown := [name for name in inputs if name not in MAKERS]:
            raise ValueError(f"it claims to be made from {unknown[0]!r}, which is no file of a run")
        made = cls(
            schema=str(attributes["schema"]),
            version=int(attributes["version"]),
            config=config,
            inputs=inputs,
            formulas=formulas,
            uses_ground_truth=bool(attributes["uses_ground_truth"]),
        )
        if made.fingerprint != attributes["fingerprint"]:
            raise ValueError("its fingerprint does not fit its attributes")
        return made


def check_schema(path: Path, provenance: Provenance) -> None:
    """Raise unless a file holds what its name says, in the version that this code reads.

    A file that is called as none of a run's may hold any of them.
    """
    schema, wanted = provenance.schema, path.stem
    if schema not in VERSIONS or provenance.version != VERSIONS[schema]:
        raise PipelineError(
            f"{path} holds {schema} version {provenance.version}, which this version cannot read. "
            f"Rebuild it with {remedy(path)}."
        )
    if wanted in VERSIONS and schema != wanted:
        raise PipelineError(f"{path} holds {schema}, expected {wanted}. Rebuild it with {remedy(path, force=True)}.")
