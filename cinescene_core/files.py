"""Writing files so that nothing half-made ever stands under the final name."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_target(path: str | os.PathLike[str]) -> None:
    """Require a place to write to; called before long work, so that it is not done in vain.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: `path` is a folder.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {target}: the folder {target.parent} does not exist. Create it or choose another."
        )
    if target.is_dir():
        raise IsADirectoryError(f"Cannot write {target}: it is a folder. Add a file name.")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    The temporary name keeps the suffix of the final one, for writers that choose their format
    by it. When the block raises, whatever it raises, the temporary file is removed and a file
    that already stood under `path` stays as it was.

    Args:
        path: where the finished file belongs; its folder must exist.

    Yields:
        An empty file in the same folder, to be written by name.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: `path` is a folder.
        OSError: the disk is full or the folder cannot be written; the message names `path`.
    """
    target = Path(path)
    check_target(target)
    temporary = target.with_name(f".{target.stem[:40]}-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        with _explained(target, *_DISK_FULL, *_NOT_WRITABLE):
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
        with _explained(target, *_DISK_FULL):
            yield temporary
        with _explained(target, *_DISK_FULL, *_NOT_WRITABLE):
            temporary.chmod(mode)  # some writers replace the file by a private one
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(target: Path, *codes: int) -> Iterator[None]:
    """Restate a system error in `codes` as one sentence about `target`."""
    try:
        yield
    except Exception as error:
        code = _error_code(error)
        if code not in codes:
            raise
        if code in _DISK_FULL:
            reason, remedy = "the disk is full", "Free some space or choose another folder."
        else:
            reason, remedy = (
                "no permission to write there",
                "Close programs that hold the file or choose another folder.",
            )
        explained = OSError(f"Cannot write {target}: {reason}. Nothing was written under that name. {remedy}")
        explained.errno = code
        raise explained from error


def _error_code(error: BaseException) -> int | None:
    """The system's error number; safetensors wraps a full disk in a class of its own."""
    if isinstance(error, OSError):
        return error.errno
    return errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else None
