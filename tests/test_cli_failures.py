"""What the command says where the work itself ends: memory, the compiler, the user."""

import pytest
import torch
from test_cli import FILM, film

import cinescene_core.cli.commands
from cinescene_core.checks import Interrupted
from cinescene_core.memory import OutOfMemory
from cinescene_core.panorama import example_panorama_path

PLACE = example_panorama_path()
SHOT = ["--panorama", PLACE, "--prompt", "a dog", *FILM]
NO_MEMORY = "there is too little free memory for this. Use fewer frames or views, a smaller size, or another --device."


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 2, NO_MEMORY),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
            2,
            NO_MEMORY,
        ),
        (MemoryError(), 2, NO_MEMORY),
        (
            OutOfMemory("Out of memory in stage 'VGGT': 77 frames take 9.0 GiB on cuda; use 12 views."),
            2,
            "cinescene: Out of memory in stage 'VGGT': 77 frames take 9.0 GiB on cuda; use 12 views.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; only files that were already finished are there."),
        (Interrupted("stopped"), 130, "interrupted; only files"),
    ],
)
def test_what_ends_the_work_is_told_in_a_sentence(tmp_path, monkeypatch, capsys, error, status, sentence):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cinescene_core.cli.commands, "generate", fail)
    shot = [*SHOT, "--out", tmp_path / "shot.mp4"]
    assert film("generate", *shot) == status
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_too_large_are_told_in_a_sentence(tmp_path, capsys):
    size = ["--width", 16_000_000, "--height", 1_600_000]  # 6e14 bytes a picture
    assert film("views", "--panorama", PLACE, *size, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"cinescene: {NO_MEMORY}"
    assert "Traceback" not in said


class NoHeaderError(Exception):
    """As torch words it: the last line says what was met."""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            lambda exc: exc.BackendCompilerFailed(
                None, NoHeaderError("Command:\nc++ a.cpp\n\na.cpp: no header.\n"), None
            ),
            "a.cpp: no header",
        ),
        (
            lambda exc: exc.Unsupported("Failed to trace builtin operator\n  Hint: avoid it.\n"),
            "Failed to trace builtin operator",
        ),
    ],
)
def test_a_compiler_that_fails_is_told_in_a_sentence(tmp_path, monkeypatch, capsys, error, sentence):
    import torch._dynamo.exc

    def fail(*_, **__):
        raise error(torch._dynamo.exc)

    monkeypatch.setattr(cinescene_core.cli.commands, "generate", fail)
    shot = [*SHOT, "--out", tmp_path / "shot.mp4"]
    assert film("generate", *shot) == 2
    wanted = f"cinescene: the transformer's blocks cannot be compiled here: {sentence}. Leave --compile out.\n"
    assert capsys.readouterr().err.endswith(wanted)


def test_an_error_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(cinescene_core.cli.commands, "generate", fail)
    shot = [*SHOT, "--out", tmp_path / "shot.mp4"]
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        film("generate", *shot)
