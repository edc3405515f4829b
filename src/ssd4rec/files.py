"""A file that is whole or absent: it is written under another name, and takes its own at the end."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file: beside `path`, hidden; it takes the name at the end of the block.

    However the block fails, what was written is removed and a file that was at `path` before stays. Who may read the file is
    what its writer made it: for all that the umask leaves with `open`, for its owner alone with safetensors.

    Args:
        path: of the file; its folder is there.

    Yields:
        The path to write to.

    Raises:
        OSError: nothing was written, or `path` cannot be replaced.
    """
    partial = path.parent / f".{path.name}.partial"
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # there may be no such file or folder: the first error is the one to tell
            partial.unlink()
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 as a file that is whole or absent."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
