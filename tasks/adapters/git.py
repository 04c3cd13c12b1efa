"""Git, where a version of the data is to be committed."""

import subprocess
from pathlib import Path

from tasks.contracts.errors import UserError

_TIMEOUT_S = 60


def commit_file(path: Path, message: str) -> None:
    """Commit `path` alone, whatever else is staged; a file without changes is left as it is.

    Raises:
        UserError: Git is missing, the file is in no checkout, or the commit was refused.
    """
    if not _git(path, "status", "--porcelain", "--", path.name):
        return
    _git(path, "add", "--", path.name)
    _git(path, "commit", "--quiet", "--message", message, "--", path.name)


def _git(path: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=path.parent, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{path} cannot be committed ({error}); commit it by hand") from error
    if done.returncode:
        reason = (done.stderr or done.stdout).strip()
        raise UserError(f"{path} cannot be committed (git {arguments[0]}: {reason}); mend that, or commit it by hand")
    return done.stdout
