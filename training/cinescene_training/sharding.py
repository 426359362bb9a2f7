"""FSDP: the network split over devices, block by block."""

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from .network import SceneNetwork


def shard(network: SceneNetwork, mesh: DeviceMesh) -> None:
    """Shard a network in place over the data-parallel axis of `mesh`; one block is gathered at a time."""
    axis = mesh["data_parallel"]
    for block in network.transformer.blocks:
        fully_shard(block, mesh=axis)
    fully_shard(network, mesh=axis)
