"""The sources of day files: a local folder, or the vendor's bucket."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Protocol

from fiblake.errors import ConfigurationError, ConflictError, UpstreamError
from services.fetcher.flat_files.days import DayFile, day_file
from shared.objects import ObjectStore

PREFIX: Final = "us_stocks_sip/day_aggs_v1"


class Source(Protocol):
    """A source of day files."""

    def files(self, first: date, last: date) -> list[DayFile]:
        """Return the day files of the sessions from `first` to `last`, oldest first.

        Raises UpstreamError or ConfigurationError if they cannot be listed.
        """

    def read(self, file: DayFile) -> bytes:
        """Return the file's bytes.

        Raises ConflictError if its version has changed, UpstreamError if it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder with day files, at any depth; a file's version is its size and the instant of its last change.

    Hidden files and folders, such as copies of other programs, do not count.
    """

    folder: Path

    def files(self, first: date, last: date) -> list[DayFile]:
        """Return the day files of these sessions, oldest first; for a session with two files the newer one."""
        if not self.folder.is_dir():
            raise ConfigurationError(f"{self.folder} is not a folder: name the one that holds YYYY-MM-DD.csv.gz files")
        return _of_sessions(self._all(), first, last)

    def read(self, file: DayFile) -> bytes:
        """Return the file's bytes, if it is still the version that was listed."""
        path = self.folder / file.key
        try:
            data = path.read_bytes()
            now = self._entry(path)
        except OSError as error:
            raise UpstreamError(f"{path} cannot be read: {error.strerror}") from error
        if now is None or now.etag != file.etag:
            raise ConflictError(f"{path} was changed while it was read")
        return data

    def _all(self) -> Iterator[DayFile]:
        for path in self.folder.rglob("*.csv.gz"):
            is_hidden = any(part.startswith(".") for part in path.relative_to(self.folder).parts)
            try:
                # A folder, or a link to nothing, is no file; the report names its session as one without a day file.
                entry = self._entry(path) if path.is_file() and not is_hidden else None
            except (OSError, ValueError, OverflowError) as error:
                raise ConfigurationError(f"{path} cannot be used: {error}; remove it from the folder") from error
            if entry:
                yield entry

    def _entry(self, path: Path) -> DayFile | None:
        status = path.stat()
        changed_at = datetime.fromtimestamp(status.st_mtime_ns // 1_000 / 1e6, UTC)
        key = path.relative_to(self.folder).as_posix()
        return day_file(key, f"{status.st_size}-{status.st_mtime_ns}", status.st_size, changed_at)


@dataclass(frozen=True, slots=True)
class BucketSource:
    """The vendor's bucket of flat files (S3's API): `PREFIX/YYYY/MM/YYYY-MM-DD.csv.gz`."""

    store: ObjectStore
    prefix: str = PREFIX

    def files(self, first: date, last: date) -> list[DayFile]:
        """Return the day files of these sessions, oldest first; one listing for each year."""
        listed = [
            day_file(info.key, info.etag, info.size, info.last_modified)
            for year in range(first.year, last.year + 1)
            for info in self.store.list_objects(f"{self.prefix}/{year}/")
        ]
        return _of_sessions((file for file in listed if file), first, last)

    def read(self, file: DayFile) -> bytes:
        """Return the file's bytes, if it is still the version that was listed."""
        return self.store.get_version(file.key, file.etag).data


def _of_sessions(files: Iterator[DayFile], first: date, last: date) -> list[DayFile]:
    newest: dict[date, DayFile] = {}
    for file in files:
        newest_file = newest.get(file.session)
        if first <= file.session <= last and (newest_file is None or _age(file) > _age(newest_file)):
            newest[file.session] = file
    return [newest[session] for session in sorted(newest)]


def _age(file: DayFile) -> tuple[datetime, str]:
    """Return by what the newest file of a session is chosen: of two of one instant, the last by name."""
    return file.last_modified, file.key
