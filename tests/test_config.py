"""Settings: the paper's defaults, limits at both ends, and a checkpoint's record in JSON."""

import dataclasses
import json
import math

import pytest

from cinescene_core.checks import CheckpointError
from cinescene_core.config import (
    LATENT_CHANNELS,
    LATENT_MEAN,
    LATENT_STD,
    CineSceneConfig,
    SamplingConfig,
    SpeedConfig,
    ViewConfig,
    WanConfig,
)


def test_the_defaults_are_the_papers():
    views = ViewConfig()
    assert (views.num_views, views.fov_degrees, views.width, views.height) == (20, 90, 672, 384)
    assert SamplingConfig().steps == 50
    assert WanConfig().head_width == 128
    record = CineSceneConfig()
    assert (record.num_views, record.num_frames, record.width, record.height) == (20, 77, 672, 384)
    assert record.context_attention == "joint"


def test_the_latent_statistics_have_one_number_per_channel():
    assert len(LATENT_MEAN) == len(LATENT_STD) == LATENT_CHANNELS
    assert min(LATENT_STD) > 0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"num_views": 0}, r"num_views must be 1 to 40; got 0\. Use 20, as the paper does"),
        ({"num_views": 41}, r"num_views must be 1 to 40; got 41"),
        ({"fov_degrees": 0}, r"fov_degrees must lie between 0 and 180; got 0\. To see wider, use more views"),
        ({"fov_degrees": 180}, r"fov_degrees must lie between 0 and 180; got 180"),
        ({"fov_degrees": math.nan}, r"got nan"),
        ({"pitch_degrees": 90.5}, r"pitch_degrees must be -90 to 90; got 90\.5"),
        ({"pitch_degrees": -90.5}, r"pitch_degrees must be -90 to 90; got -90\.5"),
        ({"yaw_offset_degrees": math.inf}, r"yaw_offset_degrees must be a finite number; got inf"),
        ({"width": 670}, r"multiples of 16 .*; got 670 x 384\. Use 672 x 384"),
    ],
)
def test_view_settings_out_of_range_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        ViewConfig(**setting)


def test_view_settings_at_the_ends_of_their_ranges_pass():
    for setting in (
        {"num_views": 1},
        {"num_views": 40},
        {"pitch_degrees": 90},
        {"pitch_degrees": -90},
        {"fov_degrees": 179.9},
    ):
        ViewConfig(**setting)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"steps": 0}, r"steps must be at least 1; got 0"),
        ({"guidance": 0.9}, r"guidance must be at least 1 \(no guidance\); got 0\.9"),
        ({"guidance_low": -0.1}, r"guidance_low and guidance_high must be noise levels in order.* got -0\.1 and 1\.0"),
        ({"guidance_low": 0.8, "guidance_high": 0.2}, r"got 0\.8 and 0\.2\. Use 0 and 1 for guidance at every step"),
        ({"guidance": math.nan}, r"guidance must be at least 1 \(no guidance\); got nan"),
        ({"shift": 0}, r"shift must be a positive number; got 0"),
        ({"shift": math.nan}, r"shift must be a positive number; got nan"),
        ({"solver": "heun"}, r"solver must be 'unipc' or 'euler'; got 'heun'"),
    ],
)
def test_sampling_settings_out_of_range_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        SamplingConfig(**setting)


def test_transformer_sizes_must_divide():
    WanConfig(width=48, num_heads=4)
    with pytest.raises(ValueError, match=r"width 50 must divide into 4 heads of an even width"):
        WanConfig(width=50, num_heads=4)
    with pytest.raises(ValueError, match=r"width 12 must divide into 4 heads of an even width"):
        WanConfig(width=12, num_heads=4)
    with pytest.raises(ValueError, match=r"WanConfig\.num_heads must be a positive number; got 0"):
        WanConfig(num_heads=0)


# ---- the record of a checkpoint -------------------------------------------------------------

OTHER = {
    "format": 1, "context_attention": "cached", "positions": "paired", "context_timestep": "zero", "vggt_id": "abc",
    "vggt_width": 56, "vggt_height": 28, "num_views": 4, "num_frames": 9, "width": 64, "height": 48,
    "fps": 24000 / 1001, "scene_trained": False, "fov_degrees": 71.5, "num_heads": 2, "base_model": "nano",
    "training_commit": "1a2b", "licence": "Apache-2.0",
}  # fmt: skip


def test_the_record_comes_back_from_json():
    assert {field.name for field in dataclasses.fields(CineSceneConfig)} == set(OTHER), "name every field here"
    record = CineSceneConfig(**OTHER)
    assert CineSceneConfig.from_json(record.to_json()) == record
    assert json.loads(record.to_json()) == OTHER
    assert CineSceneConfig.from_json("{}") == CineSceneConfig()


def test_a_whole_number_serves_as_a_real_one():
    assert CineSceneConfig.from_json('{"fps": 16}').fps == 16


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"key 'cinescene' is not JSON \(.*line 1"),
        ("[" * 100_000, r"key 'cinescene' is not JSON"),
        ("[1]", r"key 'cinescene' must hold a JSON object"),
        ('{"heads": 3}', r"unknown field 'heads'\. Update CineScene"),
        ('{"fps": "15"}', r"field 'fps' must be float; got '15'"),
        ('{"num_views": 20.0}', r"field 'num_views' must be int; got 20\.0"),
        ('{"num_views": true}', r"field 'num_views' must be int; got True"),
        ('{"licence": null}', r"field 'licence' must be str; got None"),
        ('{"positions": ["paired"]}', r"field 'positions' must be str; got \['paired'\]"),
        ('{"format": 2}', r"field 'format' is 2; this version knows \[1\]\. Update CineScene"),
        ('{"context_attention": "dense"}', r"is 'dense'; this version knows \['joint', 'cached', 'per_view'\]"),
        ('{"positions": "random"}', r"field 'positions' is 'random'"),
        ('{"context_timestep": "half"}', r"field 'context_timestep' is 'half'"),
        (
            '{"context_attention": "cached", "context_timestep": "shared"}',
            r"fields 'context_attention' and 'context_timestep' contradict each other: .* needs timestep 'zero'",
        ),
        ('{"num_frames": 78}', r"num_frames must be 4n \+ 1 .*; got 78\. Use 77 or 81"),
        ('{"width": 670}', r"multiples of 16 .*; got 670 x 384"),
        ('{"fps": NaN}', r"fps must be a positive number; got nan"),
        ('{"num_heads": 0}', r"num_heads must be a positive number; got 0"),
        ('{"vggt_width": 500}', r"vggt_width must be a multiple of VGGT's patch, 14; got 500"),
        ('{"vggt_width": -1}', r"vggt_width must be a positive number; got -1"),
        ('{"fov_degrees": 180}', r"fov_degrees must lie between 0 and 180; got 180"),
        ('{"num_views": 41}', r"num_views must be 1 to 40; got 41"),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_a_bad_record_is_refused_by_field(text, sentence):
    with pytest.raises(CheckpointError, match=rf"^Checkpoint metadata: .*{sentence}"):
        CineSceneConfig.from_json(text)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"select_views": -0.1}, r"from 0 to below 1; got -0\.1\. Use 0 to leave out only what is never seen"),
        ({"select_views": 1.0}, r"from 0 to below 1; got 1\."),
        ({"select_views": float("nan")}, r"from 0 to below 1; got nan"),
        ({"attention": "xformers"}, r"SpeedConfig\.attention must be one of sdpa, sage, flash; got 'xformers'"),
        ({"step_cache": 0.0}, r"SpeedConfig\.step_cache must be a positive number; got 0\.0"),
        ({"cache_type": "fp8"}, r"cache_type must be one of float32, bfloat16, float16, float8; got 'fp8'"),
        ({"cache_place": "disk"}, r"cache_place must be one of device, host; got 'disk'"),
    ],
)
def test_speed_settings_that_cannot_be(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SpeedConfig(**settings)


def test_what_decides_the_video_is_all_but_where_and_how_it_is_computed():
    plain = SpeedConfig()
    assert SpeedConfig(compiled=True, cache_place="host").changes_video == plain.changes_video
    for setting in ({"attention": "sage"}, {"select_views": 0.0}, {"step_cache": 0.1}, {"cache_type": "float8"}):
        assert SpeedConfig(**setting).changes_video != plain.changes_video
