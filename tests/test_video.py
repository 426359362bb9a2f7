"""Latents to frames, frames to files and back."""

import builtins
import errno
import hashlib
import os
import random
import re
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

import cinescene_core.video
from cinescene_core.checks import FileFormatError, ShapeError
from cinescene_core.models.autoencoder import WanAutoencoder, new_autoencoder
from cinescene_core.video import (
    check_video_target,
    contact_sheet,
    decode_video,
    load_video,
    save_image,
    save_video,
    side_by_side,
)

COLOURS = torch.tensor(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]
)


def colour_bars(frames=5):
    """Upright bars of 32 pixels, one colour each: [frames, 64, 288, 3]."""
    return COLOURS.view(1, 1, -1, 3).repeat_interleave(32, dim=2).repeat(frames, 64, 1, 1)


# Decoding


def test_decoding_gives_the_one_video():
    torch.manual_seed(0)
    vae = WanAutoencoder(new_autoencoder(base_dim=4))
    latents = torch.randn(1, 16, 3, 2, 4)
    frames = decode_video(latents, vae)
    assert frames.shape == (9, 16, 32, 3)
    assert torch.equal(frames, vae.decode(latents)[0])


@pytest.mark.parametrize(
    ("latents", "error", "sentence"),
    [
        (torch.zeros(2, 16, 1, 2, 2), ShapeError, r"latents must have shape \[1, 16, t, h, w\]; got \[2, 16"),
        (torch.full((1, 16, 1, 2, 2), torch.nan), ValueError, r"latents holds 64 NaN or infinite values of 64"),
    ],
)
def test_latents_that_are_no_video_are_refused(latents, error, sentence):
    with pytest.raises(error, match=sentence):
        decode_video(latents, None)


# Videos


def test_colours_survive_the_file(tmp_path):
    save_video(colour_bars(), tmp_path / "bars.mp4", 15.0)
    frames, fps = load_video(tmp_path / "bars.mp4")
    assert frames.shape == (5, 64, 288, 3)
    assert fps == 15.0
    # Middle of each bar: 220 levels of brightness for 256, and the coder's loss, are 2 levels.
    # Read as the other colour space (BT.601 for BT.709) pure green is off by more than 20.
    assert (frames[:, 32, 16::32] - COLOURS).abs().max() <= 2 / 255


def test_every_frame_is_there_in_order(tmp_path):
    # Steps of 12 levels from frame to frame, last frame included.
    levels = torch.arange(20) * 12 / 255
    save_video(levels.view(20, 1, 1, 1).expand(20, 32, 48, 3), tmp_path / "steps.mp4", 24)
    frames, _ = load_video(tmp_path / "steps.mp4")
    assert (frames.mean(dim=(1, 2, 3)) - levels).abs().max() < 3 / 255


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(15.0, Fraction(15)), (16, Fraction(16)), (12.5, Fraction(25, 2)), (30000 / 1001, Fraction(30000, 1001))],
)
def test_the_frame_rate_is_exact(tmp_path, fps, rate):
    save_video(colour_bars(9), tmp_path / "bars.mp4", fps)
    with av.open(str(tmp_path / "bars.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == rate
        # 30000/1001 has no whole number of the container's ticks; a tick is under a millisecond.
        assert float(stream.duration * stream.time_base) == pytest.approx(9 / fps, abs=1e-3)


def test_the_file_is_what_players_expect(tmp_path):
    save_video(colour_bars(), tmp_path / "bars.mp4", 15)
    with av.open(str(tmp_path / "bars.mp4")) as file:
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        # BT.709 in primaries, transfer and matrix, limited range.
        assert [codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range] == [1, 1, 1, 1]
    data = (tmp_path / "bars.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a browser starts before it has all of it


def test_bright_and_dark_are_cut_as_on_a_screen(tmp_path):
    save_video(colour_bars() * 3 - 1, tmp_path / "hdr.mp4", 15)
    frames, _ = load_video(tmp_path / "hdr.mp4")
    assert (frames[:, 32, 16::32] - (COLOURS * 3 - 1).clamp(0, 1)).abs().max() <= 2 / 255


@pytest.mark.parametrize(
    ("frames", "name", "fps", "error", "sentence"),
    [
        (torch.zeros(2, 17, 16, 3), "a.mp4", 15, ShapeError, r"even sides .* got 2 frames of 16 x 17\. Crop them"),
        (torch.zeros(2, 16, 17, 3), "a.mp4", 15, ShapeError, r"even sides .* got 2 frames of 17 x 16"),
        (torch.zeros(0, 16, 16, 3), "a.mp4", 15, ShapeError, r"at least one frame .* got 0 frames"),
        (torch.zeros(2, 16, 16, 4), "a.mp4", 15, ShapeError, r"frames must have shape \[f, h, w, 3\]"),
        (torch.full((1, 16, 16, 3), torch.nan), "a.mp4", 15, ValueError, r"holds 768 NaN or infinite values"),
        (torch.zeros(1, 16, 16, 3), "a.gif", 15, ValueError, r"suffix must be \.mp4; got '\.gif'"),
        (torch.zeros(1, 16, 16, 3), "a.mp4", 0, ValueError, r"fps must be a positive number; got 0"),
        (torch.zeros(1, 16, 16, 3), "no/a.mp4", 15, FileNotFoundError, r"the folder .*no does not exist\. Create it"),
    ],
)
def test_videos_that_cannot_be_written_are_refused(tmp_path, frames, name, fps, error, sentence):
    with pytest.raises(error, match=sentence):
        save_video(frames, tmp_path / name, fps)
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    """A stream that finds no space for its third frame."""

    def __init__(self, stream):
        self.__dict__.update(stream=stream, count=0)

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __setattr__(self, name, value):
        setattr(self.stream, name, value)

    def encode(self, frame=None):
        self.__dict__["count"] += 1
        if self.count > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.stream.encode(frame)


def test_a_full_disk_leaves_no_half_video(tmp_path, monkeypatch):
    (tmp_path / "shot.mp4").write_bytes(b"old")
    original = av.container.OutputContainer.add_stream

    class Container:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *reason):
            return self.file.__exit__(*reason)

        def add_stream(self, *args, **kwargs):
            return FullDisk(original(self.file, *args, **kwargs))

        def mux(self, packets):
            self.file.mux(packets)

    real_open = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: Container(real_open(*args, **kwargs)))
    with pytest.raises(OSError, match=r"Cannot write .*shot\.mp4: the disk is full\. Nothing was written"):
        save_video(colour_bars(), tmp_path / "shot.mp4", 15)
    assert [path.name for path in tmp_path.iterdir()] == ["shot.mp4"]
    assert (tmp_path / "shot.mp4").read_bytes() == b"old"


def test_files_that_are_no_video_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.mp4 is no video that can be read .* Check the file\."):
        load_video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(FileFormatError, match=r"text\.mp4 is no video that can be read"):
        load_video(tmp_path / "text.mp4")


@pytest.mark.parametrize(("options", "streams"), [({}, 0), ({"movflags": "frag_keyframe+empty_moov"}, 1)])
def test_a_video_without_frames_is_refused(tmp_path, options, streams):
    with av.open(str(tmp_path / "empty.mp4"), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        file.start_encoding()
    with av.open(str(tmp_path / "empty.mp4")) as file:
        assert len(file.streams.video) == streams
    with pytest.raises(FileFormatError, match=r"empty\.mp4 holds no frames of a video\. Write it again"):
        load_video(tmp_path / "empty.mp4")


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("a.gif", ValueError, r"suffix must be \.mp4; got '\.gif'"),
        ("no/a.mp4", FileNotFoundError, r"the folder .*no does not exist\. Create it"),
        ("folder.mp4", IsADirectoryError, r"folder\.mp4: it is a folder\. Add a file name"),
    ],
)
def test_a_place_where_no_video_can_be_written_is_told(tmp_path, name, error, sentence):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(error, match=sentence):
        check_video_target(tmp_path / name)
    check_video_target(tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mp4"]


def test_every_frame_is_told(tmp_path):
    told = []
    save_video(colour_bars(3), tmp_path / "a.mp4", 15, on_frame=lambda *news: told.append(news))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_without_pyav_a_sentence_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "av":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=re.escape('need PyAV. Install it with: pip install "cinescene[cli]"')):
        save_video(colour_bars(), tmp_path / "a.mp4", 15)
    with pytest.raises(ImportError, match="need PyAV"):
        check_video_target(tmp_path / "a.mp4")


# Pictures


def test_clips_stand_from_left_to_right_with_a_black_gap():
    red, green = (COLOURS[i].expand(2, 4, 6, 3) for i in (0, 1))
    joined = side_by_side(red, green, gap=2)
    assert joined.shape == (2, 4, 14, 3)
    assert (joined[:, :, :6] == COLOURS[0]).all()
    assert (joined[:, :, 6:8] == 0).all()
    assert (joined[:, :, 8:] == COLOURS[1]).all()
    assert torch.equal(side_by_side(red), red)


@pytest.mark.parametrize(
    ("clips", "sentence"),
    [
        ([(2, 4, 6, 3), (3, 4, 6, 3)], r"one length and one height; got 2 frames of height 4, 3 frames of height 4"),
        ([(2, 4, 6, 3), (2, 8, 6, 3)], r"got 2 frames of height 4, 2 frames of height 8"),
        ([], r"got none"),
        ([(4, 6, 3)], r"clip must have shape \[f, h, w, 3\]"),
    ],
)
def test_clips_that_do_not_fit_are_refused(clips, sentence):
    with pytest.raises(ShapeError, match=sentence):
        side_by_side(*(torch.zeros(shape) for shape in clips))


def test_a_contact_sheet_reads_like_a_page():
    images = (torch.arange(1.0, 6.0) / 10).view(5, 1, 1, 1).expand(5, 2, 3, 3)
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (6, 6, 3)
    assert torch.equal(sheet[::2, ::3, 0], torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0]]))
    assert torch.equal(sheet[1::2, 2::3, 0], torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0]]))
    # More columns than images: no empty places.
    assert contact_sheet(images[:2], columns=5).shape == (2, 6, 3)


@pytest.mark.parametrize(
    ("shape", "columns", "sentence"),
    [
        ((0, 2, 2, 3), 2, r"at least one image"),
        ((2, 2, 3), 2, r"images must have shape \[n, h, w, 3\]"),
        ((2, 2, 2, 3), 0, r"columns must be a positive number; got 0"),
    ],
)
def test_sheets_that_cannot_be_laid_out_are_refused(shape, columns, sentence):
    with pytest.raises(ValueError, match=sentence):
        contact_sheet(torch.zeros(shape), columns)


def test_png_keeps_the_nearest_of_256_values(tmp_path):
    # Half-way values go to the even neighbour; what lies outside 0..1 is cut.
    values = torch.tensor([0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 1, 2, -1]).view(1, 7, 1).expand(1, 7, 3)
    save_image(values, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 127, 255, 255, 0]


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_jpeg_is_close(tmp_path, name):
    # Smooth in both directions, which JPEG keeps within a few levels.
    picture = torch.linspace(0, 1, 64).view(1, 64, 1) * torch.linspace(0.2, 1, 64).view(64, 1, 1).expand(64, 1, 3)
    save_image(picture, tmp_path / name)
    found = torch.from_numpy(np.asarray(Image.open(tmp_path / name)).copy()) / 255
    assert (found - picture).abs().max() < 4 / 255


@pytest.mark.parametrize(
    ("shape", "name", "error", "sentence"),
    [
        ((4, 4, 3), "a.bmp", ValueError, r"suffix must be one of \.png, \.jpg, \.jpeg; got '\.bmp'"),
        ((4, 4), "a.png", ShapeError, r"image must have shape \[h, w, 3\]; got \[4, 4\]"),
        ((4, 4, 3), "no/a.png", FileNotFoundError, r"the folder .*no does not exist"),
    ],
)
def test_pictures_that_cannot_be_written_are_refused(tmp_path, shape, name, error, sentence):
    with pytest.raises(error, match=sentence):
        save_image(torch.zeros(shape), tmp_path / name)


def test_a_full_disk_leaves_no_half_picture(tmp_path, monkeypatch):
    class Full:
        def save(self, path, **options):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cinescene_core.video.Image, "fromarray", lambda pixels: Full())
    with pytest.raises(OSError, match=r"Cannot write .*a\.png: the disk is full"):
        save_image(torch.zeros(4, 4, 3), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_videos_of_the_same_frames_are_the_same_files(tmp_path):
    """Whatever lay in memory before: x264's macroblock tree reads of it, and is switched off."""
    frames, sizes = torch.rand(5, 64, 112, 3, generator=torch.Generator().manual_seed(0)), random.Random(0)
    digests = set()
    for _ in range(40):
        kept = [np.full(sizes.randint(1000, 200_000), sizes.randint(0, 255), np.uint8) for _ in range(20)]
        del kept[::2]
        save_video(frames, tmp_path / "a.mp4", 8.0)
        digests.add(hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest())
    assert len(digests) == 1
