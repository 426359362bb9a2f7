"""How several runs are to be measured so that their numbers compare, and whether a run was measured so before."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from cinescene_core.devices import check_device

from ..config import TrainingConfig
from ..samples import chosen_clips
from ..train import open_cache
from .instruments import open_instruments
from .options import EvaluationOptions
from .run import identity_digest, protocol_of, variant_of
from .table import MODEL, VAE, EvaluationRecord, MetricTable, differences


@dataclass(frozen=True)
class Yardstick:
    """The conditions and instruments that one set of options means for a run and its variants."""

    options: EvaluationOptions
    protocol: EvaluationRecord
    """Of the run, without its clips: each variant may have a cache of its own."""
    instruments: Mapping[str, str]
    """Field of `MetricRow` to what measures it."""

    @classmethod
    def of(cls, run: TrainingConfig, options: EvaluationOptions) -> "Yardstick":
        """Open every instrument once for its name; called before long work, so that it is not done in vain.

        Raises:
            CheckpointError: a named file of weights is missing, damaged, or another network.
            ImportError: kornia or transformers is needed and not installed.
            ValueError: no such device, or impossible sampling.
        """
        tools = open_instruments(run, options, check_device(options.device))
        estimator = "" if tools.estimator is None else tools.estimator.name
        protocol = protocol_of(run, options, clips=0, estimator=estimator, checkpoint="")
        return cls(options, protocol, tools.names(run.cache.shot.num_frames))

    def fits(self, table: MetricTable, variant: TrainingConfig) -> bool:
        """Whether a table is of this variant, and measured as it would be now.

        Raises:
            FileFormatError: the variant's split is not encoded.
            CheckpointError, FileNotFoundError: as `identity_digest`.
        """
        clips = len(chosen_clips(len(open_cache(variant, self.options.split)), self.options.clips))
        protocol = dataclasses.replace(self.protocol, clips=clips)
        wanted = dataclasses.replace(table, protocol=protocol, instruments=self.instruments)
        variants = {MODEL, VAE, *map(variant_of, self.options.interventions)}
        return (
            table.protocol.identity == identity_digest(variant)
            and table.instruments == self.instruments
            and not differences(table, wanted)
            and variants <= {video.variant for video in table.videos}
        )
