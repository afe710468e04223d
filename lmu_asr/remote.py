"""Folders of an S3 bucket: listed, fetched and written, each file whole or not at all.

Address, region and credentials are those of the AWS environment: ``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE`` and the like.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lmu_asr.errors import RemoteError
from lmu_asr.files import atomic_path
from lmu_asr.progress import progress

SCHEME = "s3://"
TRANSFERS = 8  # files at once
ADVICE = {
    "403": "no permission: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "404": "there is no such bucket or object",
    "AccessDenied": "no permission for this bucket with these credentials",
    "InvalidAccessKeyId": "the access key is not known: check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "NoSuchBucket": "there is no such bucket: make it first, or correct its name",
    "NoSuchKey": "there is no such object",
}


def is_remote(address: str | Path) -> bool:
    """Whether ``address`` is an object store's."""
    return str(address).startswith(SCHEME)


def experiment_url(remote: str, exp_dir: Path) -> str:
    """Address of an experiment: ``<remote>/<corpus>/<variant>``."""
    path = exp_dir.resolve()
    return f"{remote.rstrip('/')}/{path.parent.name}/{path.name}"


@dataclass(frozen=True)
class RemoteFile:
    """What a listing says of an object: its size in bytes and its time, seconds since 1970."""

    size: int
    modified: int


class RemoteFolder:
    """Everything below ``s3://bucket/prefix``, named by relative paths.

    Raises:
        RemoteError: from every method: no bucket, no permission, no network, or boto3 is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        bucket, _, prefix = self.url.removeprefix(SCHEME).partition("/")
        if not is_remote(url) or not bucket:
            raise RemoteError(f"{url}: want s3://bucket/prefix")
        self.bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._client = _client()

    def files(self) -> dict[str, RemoteFile]:
        """List every object below, by relative name."""
        found: dict[str, RemoteFile] = {}
        pages = self._client.get_paginator("list_objects_v2")
        with _named_errors(self.url):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix):
                for item in page.get("Contents", []):
                    name = item["Key"].removeprefix(self._prefix)
                    if name and not name.endswith("/"):  # consoles make empty objects for folders
                        modified = int(item["LastModified"].timestamp())
                        found[safe_name(name, self.url)] = RemoteFile(item["Size"], modified)
        return found

    def find(self, name: str) -> RemoteFile | None:
        """Ask for one object; None when the bucket does not have it."""
        from botocore.exceptions import ClientError

        with _named_errors(f"{self.url}/{name}"):
            try:
                found = self._client.head_object(Bucket=self.bucket, Key=self._prefix + name)
            except ClientError as error:
                if str(error.response.get("Error", {}).get("Code")) not in ("404", "NoSuchKey"):
                    raise
                self._client.head_bucket(Bucket=self.bucket)  # a bucket that is missing is an error
                return None
        return RemoteFile(found["ContentLength"], int(found["LastModified"].timestamp()))

    def get(self, name: str, path: Path, file: RemoteFile) -> None:
        """Fetch an object to ``path``, which gets the object's time, whole or not at all."""
        with atomic_path(path) as temporary:
            with _named_errors(f"{self.url}/{name}"):
                self._client.download_file(self.bucket, self._prefix + name, str(temporary))
            if (size := temporary.stat().st_size) != file.size:
                raise RemoteError(
                    f"{self.url}/{name}: {size} bytes came, {file.size} were listed: it changed "
                    "meanwhile; run again"
                )
            os.utime(temporary, (file.modified, file.modified))

    def put(self, path: Path, name: str) -> None:
        """Write ``path`` as the object ``name``; objects appear whole."""
        with _named_errors(f"{self.url}/{name}"):
            self._client.upload_file(str(path), self.bucket, self._prefix + name)

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects."""
        for name in names:
            with _named_errors(f"{self.url}/{name}"):
                self._client.delete_object(Bucket=self.bucket, Key=self._prefix + name)


def fetch_folder(url: str, target: Path) -> int:
    """Make ``target`` hold what ``url`` does; files of the same size and time are kept.

    Returns:
        Number of files fetched.

    Raises:
        RemoteError: nothing is there, or it cannot be read; a second call goes on.
    """
    folder = RemoteFolder(url)
    files = folder.files()
    if not files:
        raise RemoteError(f"{url}: nothing is below it; want the address of a folder")
    missing = {name: f for name, f in files.items() if not is_same(target / name, f)}
    _all(lambda name: folder.get(name, target / name, missing[name]), missing, f"fetching {url}")
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        if path.relative_to(target).as_posix() not in files:
            path.unlink()  # gone there, or left by a killed run
    return len(missing)


def push_folder(source: Path, url: str) -> int:
    """Write every file below ``source`` to ``url``; returns their number.

    Raises:
        RemoteError: it cannot be written.
    """
    folder = RemoteFolder(url)
    names = {p.relative_to(source).as_posix(): p for p in source.rglob("*") if p.is_file()}
    names = {name: path for name, path in names.items() if not path.name.startswith(".")}
    _all(lambda name: folder.put(names[name], name), names, f"writing {url}")
    return len(names)


def _all(act: Callable[[str], None], names: Iterable[str], description: str) -> None:
    """Do something for every name, some at once; the first error ends it."""
    names = list(names)
    with ThreadPoolExecutor(TRANSFERS) as pool:
        try:
            for _ in progress(pool.map(act, names), description, total=len(names), unit="file"):
                pass
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def is_same(path: Path, file: RemoteFile) -> bool:
    """Whether a local file has the size and the time of an object."""
    if not path.is_file():
        return False
    stat = path.stat()
    return stat.st_size == file.size and int(stat.st_mtime) == file.modified


def safe_name(name: str, url: str) -> str:
    """Return the name of an object below ``url`` if it can be a file's below a directory.

    Raises:
        RemoteError: it would lie outside.
    """
    if ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise RemoteError(f"{url}: the object '{name}' would lie outside the folder")
    return name


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise RemoteError(
            "s3:// needs boto3: pip install -c utils/constraints.txt -r utils/requirements-s3.txt"
        ) from error
    config = Config(
        connect_timeout=10, read_timeout=60, retries={"max_attempts": 5, "mode": "standard"}
    )
    with _named_errors(SCHEME):
        return boto3.session.Session().client("s3", config=config)


@contextlib.contextmanager
def _named_errors(where: str) -> Iterator[None]:
    """Turn what boto3 raises into one line that says what to do."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise RemoteError(
            f"{where}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        ) from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise RemoteError(f"{where}: {ADVICE.get(code, str(error))} ({code})") from error
    except (BotoCoreError, Boto3Error) as error:
        known = next((advice for code, advice in ADVICE.items() if f"({code})" in str(error)), "")
        raise RemoteError(
            f"{where}: {known or error}; check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the network"
        ) from error
