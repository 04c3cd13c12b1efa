"""Folders for files that a library writes and reads again, with room for them."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ANYWAY_BYTES = 2**20
"""Room for what does not grow with a model."""


@contextmanager
def scratch_folder(purpose: str, num_bytes: int) -> Iterator[Path]:
    """Make a folder for temporary files, which goes with the block.

    onnxruntime does not say when a disk took only a part of a graph: reading it then fails as if the model were
    damaged. So room is asked for first.

    Args:
        purpose: part of the folder's name.
        num_bytes: of the files in it.

    Raises:
        OSError: with `errno.ENOSPC`: there is less room than that.
    """
    with tempfile.TemporaryDirectory(prefix=f"stillhouse-{purpose}-") as folder:
        if shutil.disk_usage(folder).free < num_bytes + _ANYWAY_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        yield Path(folder)
