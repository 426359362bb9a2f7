"""Files appear whole or not at all."""

import errno
import os
import stat

import pytest

from cinescene_core.files import atomic_write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_half(target, error):
    """Write some bytes as any writer would, then fail."""
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


def write_nothing(target):
    with atomic_write(target):
        pass


def test_the_file_appears_only_when_the_block_is_done(tmp_path):
    target = tmp_path / "shot.mp4"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"whole")
        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"
    assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["shot.mp4"]


def test_an_existing_file_is_kept_or_replaced_whole(tmp_path):
    target = tmp_path / "scene.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target, KeyboardInterrupt())
    assert target.read_bytes() == b"old"
    with atomic_write(str(target)) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["scene.safetensors"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
    ],
    ids=["from-the-system", "wrapped-by-a-writer"],
)
def test_a_full_disk_leaves_nothing_and_is_said_in_words(tmp_path, error):
    sentence = r"^Cannot write .*shot\.mp4: the disk is full\. Nothing was written under that name\. Free some space"
    with pytest.raises(OSError, match=sentence) as caught:
        write_half(tmp_path / "shot.mp4", error)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full")
def test_a_disk_that_is_really_full_is_recognised(tmp_path):
    def write(target):
        with atomic_write(target), open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(OSError, match="the disk is full"):
        write(tmp_path / "a.json")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "another file"), ZeroDivisionError("a writer's bug")])
def test_other_errors_pass_through_unchanged_and_leave_nothing(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        write_half(tmp_path / "a.json", error)
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_name_that_another_program_holds_is_explained(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"Cannot write .*a\.json: no permission to write there\. .* Close programs"):
        write_nothing(tmp_path / "a.json")
    assert names(tmp_path) == []


def test_a_missing_folder_and_a_folder_as_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist\. Create it or choose another"):
        write_nothing(tmp_path / "nowhere" / "a.json")
    with pytest.raises(IsADirectoryError, match=r"it is a folder\. Add a file name"):
        write_nothing(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_the_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_nothing(tmp_path / "ours")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_writer_that_makes_its_own_private_file_does_not_make_ours_private(tmp_path):
    target = tmp_path / "scene.safetensors"
    with atomic_write(target) as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    usual = tmp_path / "usual"
    usual.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
