"""Which DVC remote a project uses, and what its failures mean."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.adapters.s3_connection import S3Options
from tasks.contracts.addresses import without_secrets
from tasks.contracts.errors import DataError, ServiceUnavailableError

if TYPE_CHECKING:
    from tasks.runtime.settings import Settings

_NAME = "stillhouse"
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_USER_INFO = re.compile(r"(?<=://)[^/@]+@")


@dataclass(frozen=True)
class Remote:
    """Where versions of `data/` are kept besides this machine's cache.

    Attributes:
        url: address or absolute folder; for a remote that the checkout names, its name.
        from_checkout: the checkout's `.dvc/config` describes it, credentials and all.
        options: what else DVC is told of it, by its own names.
    """

    url: str
    from_checkout: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The address without credentials, for messages."""
        return _USER_INFO.sub("", self.url)

    def is_there(self) -> bool:
        """Tell whether it makes sense to ask: a folder that was never pushed to is no remote yet."""
        return self.from_checkout or "://" in self.url or Path(self.url).is_dir()

    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return DVC's `config` with this remote as the default one."""
        if self.from_checkout:
            return config
        remote: dict[str, Any] = {"url": self.url, **self.options}
        return config | {"core": config["core"] | {"remote": _NAME}, "remote": {_NAME: remote}}

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn what DVC and its file systems raise into errors that name the remote and the setting."""
        from botocore.exceptions import BotoCoreError, ClientError
        from dvc.exceptions import DvcException

        try:
            yield
        except (DvcException, OSError, BotoCoreError, ClientError) as error:
            cause = f"{type(error).__name__}: {without_secrets(str(error), self.url)}"
            raise ServiceUnavailableError(
                f"cannot {doing} the DVC remote {self.shown} ({cause}); check that it is up, "
                "its credentials, and the setting STILLHOUSE_DVC_REMOTE (or the remote in .dvc/config)"
            ) from error


def remote_of(settings: Settings) -> Remote:
    """Choose the remote: the setting, else the one that the checkout's configuration names, else the embedded one.

    The embedded one lies below STILLHOUSE_BUCKET_URL, or below HOME where there is no bucket.

    Raises:
        DataError: the checkout's `.dvc/config` cannot be parsed.
    """
    if settings.dvc_remote is None:
        named = _named_in_checkout(settings.project)
        if named:
            return Remote(named, from_checkout=True)
    url = settings.dvc_remote or settings.dvc_default_address
    if "://" not in url:
        return Remote(str((settings.project / Path(url).expanduser()).resolve()))
    return Remote(url, options=_s3_options(S3Options.of(settings)) if url.startswith("s3://") else {})


def _s3_options(options: S3Options) -> dict[str, Any]:
    encryption = options.encryption_arguments
    said = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "endpointurl": options.endpoint,
        "region": options.region,
        "sse": encryption.get("ServerSideEncryption"),
        "sse_kms_key_id": encryption.get("SSEKMSKeyId"),
    }
    return {name: value for name, value in said.items() if value}


def _named_in_checkout(project: Path) -> str | None:
    """Read the default remote's name without importing DVC; the local file overrides the shared one."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read([project / ".dvc" / "config", project / ".dvc" / "config.local"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise DataError(f"{project / '.dvc'} holds a config that cannot be parsed: {error}") from error
    return parser.get("core", "remote", fallback=None)
