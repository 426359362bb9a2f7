"""A small dataset in memory, with encoders of a toy's size, for the tests of the encoded cache."""

import dataclasses
import zlib
from pathlib import Path

import torch

from cinescene_core.cameras import pose_from, rotation_from_angles
from cinescene_core.models.autoencoder import WanAutoencoder, new_autoencoder
from cinescene_core.models.text import VocabularyEncoder
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.types import Trajectory, Views
from cinescene_training.config import CacheConfig, EncodersConfig, ShotConfig, SourceConfig
from cinescene_training.data.build import fill_cache
from cinescene_training.data.encoders import EncoderDigests, Encoders
from cinescene_training.data.fingerprint import Fingerprint
from cinescene_training.data.footage import ClipItem, PlaceItem
from cinescene_training.data.sources import Side, Source

WIDTH, HEIGHT, FRAMES, VIEWS = 48, 32, 5, 3
VGGT_SIZE = (42, 28)
SHOT = ShotConfig(
    width=WIDTH,
    height=HEIGHT,
    num_frames=FRAMES,
    num_views=VIEWS,
    vggt_width=VGGT_SIZE[0],
    vggt_height=VGGT_SIZE[1],
)
WORDS = ("a", "red", "ball", "rolls", "through", "room", "the")
PAN_DEGREES = 20.0


def pictures(name, count):
    """[count, h, w, 3] of noise that only the name decides."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.rand(count, HEIGHT, WIDTH, 3, generator=generator)


class FakeFootage:
    """`count` places, each with one path filmed with and without the subject.

    `faults` is what an item gives instead: an exception is raised, a tensor is its frames, views or path as they are.
    """

    def __init__(self, count=3, prefix="place", faults=None, problems=()):
        self.places = tuple(PlaceItem(name=f"{prefix}{i}", environment=f"{prefix}{i}") for i in range(count))
        self.faults = faults or {}
        self.problems = tuple(problems)

    @property
    def clips(self):
        both = (("whuman", "a red ball rolls through the room", True), ("wohuman", "the room", False))
        return tuple(
            ClipItem(name=f"{place.name}/{kind}/01", place=place.name, caption=caption, has_subject=subject)
            for place in self.places
            for kind, caption, subject in both
        )

    def views(self, place, config):
        return self._given(place, Views(pictures(place, config.num_views), None, config.fov_degrees))

    def trajectory(self, clip):
        yaw = torch.linspace(0, PAN_DEGREES, FRAMES + 4, dtype=torch.float64) + 30
        poses = pose_from(rotation_from_angles(yaw), torch.zeros(len(yaw), 3, dtype=torch.float64))
        return self._given(f"{clip} path", Trajectory(poses, torch.tensor(90.0)))

    def frames(self, clip, num_frames):
        moving = pictures(clip, num_frames)
        moving[0] = pictures(clip.split("/")[0], 1)[0]  # a clip starts with the start view of its place
        return self._given(clip, moving)

    def _given(self, name, usual):
        fault = self.faults.get(name, usual)
        if isinstance(fault, Exception):
            raise fault
        return fault


def tiny_encoders():
    """A VAE, a VGGT and a text encoder with random weights, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = WanAutoencoder(new_autoencoder(base_dim=4))
        sizes = {"embed_dim": 32, "num_heads": 2, "position_grid": 3, "backbone_depth": 1, "depth": 2}
        vggt = VGGT(VGGTConfig(**sizes, camera_head=False, depth_head=False)).eval()
        text = VocabularyEncoder(WORDS, width=8, length=12)
        torch.nn.init.normal_(text.positions)
    return Encoders(vae, vggt, text.eval())


def cache_config(folder: Path, **changes):
    """A cache of the fake dataset: two places to a shard, values stored as they are."""
    settings = {
        "folder": folder,
        "source": SourceConfig(kind="rooms"),
        "shot": SHOT,
        "encoders": EncodersConfig(bundle=Path("nano")),
        "places_per_shard": 2,
        "dtype": "float32",
    }
    return CacheConfig(**(settings | changes))


def fake_fingerprint(config, **changes):
    """The fingerprint of a fake cache; the digests are invented, its files do not exist."""
    made = Fingerprint(
        encoders=EncoderDigests(vae="0" * 16, vggt="1" * 16, text="2" * 16),
        shot=config.shot,
        source=config.source,
        dtype=config.dtype,
        clip_features=config.clip_features,
        places_per_shard=config.places_per_shard,
    )
    return dataclasses.replace(made, **changes)


def fake_source(**splits):
    """Footage by split."""
    sides = tuple(Side(split, footage, footage.places) for split, footage in splits.items())
    return Source(sides, tuple(problem for side in sides for problem in side.footage.problems))


def fill(config, encoders, *, on_progress=None, workers=1, **footage):
    """Build a cache of fake footage by split."""
    made = fake_fingerprint(config)
    return fill_cache(config, made, fake_source(**footage), lambda: encoders, on_progress=on_progress, workers=workers)


def shards(folder):
    """Every shard's bytes by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
