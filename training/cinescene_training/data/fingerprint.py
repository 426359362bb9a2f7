"""What decided the content of a cache: training compares it before it reads a shard."""

import hashlib
from dataclasses import dataclass

from cinescene_core import __version__ as core_version
from cinescene_core.checks import FileFormatError

from .. import __version__ as training_version
from ..config import CacheConfig, ShotConfig, SourceConfig, as_record
from ..provenance import commit
from ..render.version import RENDER_VERSION
from ..settings import flat
from .encoders import EncoderDigests, encoder_digests

CACHE_FORMAT = 1
"""Version of the shards' layout."""
NOT_COMPARED = ("commit", "source.compiled", "source.root", "source.calibration")
"""Fields that are only told: files count by their content, wherever they lie."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Models, sizes, source and code version of encoded shards."""

    format: int = CACHE_FORMAT
    encoders: EncoderDigests
    shot: ShotConfig
    source: SourceConfig
    calibration_digest: str = ""
    """`calibration_digest` of the source."""
    render_version: int = 0
    """`RENDER_VERSION` of rooms; 0 for what lies in files."""
    dtype: str
    """Type of stored latents, features and text rows."""
    clip_features: bool
    places_per_shard: int
    training_version: str = training_version
    core_version: str = core_version
    commit: str = ""
    """Of the code (`provenance.commit`)."""

    def check(self, wanted: "Fingerprint", name: str) -> None:
        """Require that shards of this fingerprint serve a run that wants another.

        Shards that keep features of the clips also serve a run that does not read them.

        Args:
            wanted: of the run.
            name: what to call the shards.

        Raises:
            FileFormatError: they differ; the sentence names the first field, both values and the remedy.
        """
        found, needed = flat(as_record(self)), flat(as_record(wanted))
        for field, value in needed.items():
            more_than_needed = field == "clip_features" and found[field] and not value
            if field not in NOT_COMPARED and found[field] != value and not more_than_needed:
                raise FileFormatError(
                    f"{name} was encoded with {field} = {found[field]!r}, and this run wants {value!r}. "
                    "Run cinescene-train cache again into another folder, or configure the run as the shards are."
                )


def fingerprint_of(config: CacheConfig) -> Fingerprint:
    """The fingerprint that a configuration's shards have; reads the encoders' files, loads no network.

    Raises:
        CheckpointError: an encoder's file is damaged or missing, or lacks a part.
        FileNotFoundError: the calibration is missing.
    """
    return Fingerprint(
        encoders=encoder_digests(config.encoders),
        shot=config.shot,
        source=config.source,
        calibration_digest=calibration_digest(config.source),
        render_version=RENDER_VERSION if config.source.kind == "rooms" else 0,
        dtype=config.dtype,
        clip_features=config.clip_features,
        places_per_shard=config.places_per_shard,
        commit=commit(),
    )


def calibration_digest(config: SourceConfig) -> str:
    """16 hex digits of a source's calibration file, "" without one.

    Raises:
        FileNotFoundError: the calibration is missing.
    """
    if config.calibration is None:
        return ""
    if not config.calibration.is_file():
        raise FileNotFoundError(
            f"There is no calibration {config.calibration}. Run cinescene-train calibrate, and name the file it writes "
            "as cache.source.calibration."
        )
    return hashlib.sha256(config.calibration.read_bytes()).hexdigest()[:16]
