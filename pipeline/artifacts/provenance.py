"""Provenance of an artifact: its options, inputs and formulas, and a fingerprint of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.runs.config import Config
from pipeline.runs.graph import MAKERS, VERSIONS, remedy
from pipeline.system.errors import NotBuiltError, PipelineError

Options = TypeVar("Options", bound=Config)


@dataclass(frozen=True)
class Provenance:
    """Where an artifact came from. Two artifacts with the same fingerprint have the same inputs, options and formulas."""

    schema: str
    """The name of its file without the ending."""
    version: int
    config: Mapping[str, Any]
    """Options of the stage that determine the content; a file counts by the hash of its content."""
    inputs: Mapping[str, str]
    """Every file of the run folder that the stage read, by name, with its fingerprint."""
    formulas: Mapping[str, int] = field(default_factory=dict)
    """Version of each module of `pipeline.method` that determines the content."""
    uses_ground_truth: bool = False
    """True if this stage or an earlier one read ground truth: an ablation, or thresholds calibrated on labelled photos."""

    @property
    def seed(self) -> int | None:
        """Seed of the stage's random draws; None for a stage without random draws."""
        return self.config.get("seed")

    def options(self, kind: type[Options]) -> Options:
        """The options that the artifact was made with; those outside its fingerprint have their defaults.

        Raises:
            PipelineError: the options are not those of this stage.
        """
        return kind.from_table(self.config, f"the options in {self.schema}")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the content, 16 hex digits; known before the stage runs."""
        content = json.dumps([self.schema, self.version, self.config, self.inputs, self.formulas], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def of(self, name: str) -> "Provenance":
        """The provenance of another file that the same stage writes."""
        schema = Path(name).stem
        return replace(self, schema=schema, version=VERSIONS[schema])

    def to_attributes(self) -> dict[str, Any]:
        """Flat attributes, as a file stores them."""
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
            raise ValueError("its provenance is not a set of JSON objects")
        if unknown := [name for name in inputs if name not in MAKERS]:
            raise ValueError(f"it names {unknown[0]!r} as an input, which is not a file of a run")
        made = cls(
            schema=str(attributes["schema"]),
            version=int(attributes["version"]),
            config=config,
            inputs=inputs,
            formulas=formulas,
            uses_ground_truth=bool(attributes["uses_ground_truth"]),
        )
        if made.fingerprint != attributes["fingerprint"]:
            raise ValueError("its fingerprint does not match its attributes")
        return made


def check_schema(path: Path, provenance: Provenance) -> None:
    """Raise unless a file has the schema of its name, in the version that this code reads.

    A file whose name is not a run's artifact may have any schema.
    """
    schema, expected = provenance.schema, path.stem
    if schema not in VERSIONS or provenance.version != VERSIONS[schema]:
        raise NotBuiltError(
            f"{path} contains {schema} version {provenance.version}, which this version of ccd cannot read.",
            f"Rebuild it with {remedy(path)}.",
        )
    if expected in VERSIONS and schema != expected:
        raise PipelineError(
            f"{path} contains {schema}, expected {expected}. Rebuild it with {remedy(path, force=True)}."
        )
