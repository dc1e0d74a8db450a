from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import obstore
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from obstore.exceptions import BaseError, GenericError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

from fiblake import objects
from fiblake.errors import ConfigurationError, ConflictError, UpstreamError
from fiblake.objects import s3_backend
from shared.objects import ATTEMPTS_AT_UPDATE, CONCURRENCY, ObjectInfo, ObjectStore, StoredObject, backoff_delays
from tests.fakes import BUCKET, MemoryDeleter, MemoryObjectStore


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


def test_what_is_put_is_read_with_its_version_and_age(store: MemoryObjectStore) -> None:
    etag = store.put("a/b", b"data")
    stored = store.find("a/b")
    assert stored
    assert (stored.key, stored.data, stored.etag) == ("a/b", b"data", etag)
    (info,) = store.list_objects("a/")
    assert stored.last_modified == info.last_modified
    assert stored.last_modified.utcoffset() is not None


def test_what_is_not_there_is_none(store: MemoryObjectStore) -> None:
    assert store.find("a/b") is None
    assert store.versions(["a/b"]) == [None]


def test_many_are_read_and_written_in_order(store: MemoryObjectStore) -> None:
    keys = [f"a/{n}" for n in range(3 * CONCURRENCY)]
    store.put_many((key, key.encode()) for key in keys[::2])
    stored = store.get_many(keys)
    assert [item.data if item else None for item in stored] == [
        key.encode() if n % 2 == 0 else None for n, key in enumerate(keys)
    ]
    assert store.get_many([]) == []


@pytest.mark.parametrize("groups", [[], [["a/0"]], [["a/0", "b"], ["a/1"], [], ["a/2", "a/3"]]])
def test_groups_are_read_in_order(store: MemoryObjectStore, groups: list[list[str]]) -> None:
    store.put_many((f"a/{n}", b"%d" % n) for n in range(4))
    assert list(store.get_groups(groups)) == [store.get_many(group) for group in groups]


def test_the_next_group_is_requested_while_the_caller_has_one(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = {key: Event() for key in ("first", "next", "last")}
    find = store.find

    def find_and_tell(key: str) -> StoredObject | None:
        requested[key].set()
        return find(key)

    monkeypatch.setattr(store, "find", find_and_tell)
    groups = store.get_groups([["first"], ["next"], ["last"]])
    next(groups)
    assert requested["next"].wait(60)
    assert not requested["last"].is_set()


def test_of_many_writes_those_that_fail_are_reported_by_key_and_the_others_are_done(store: MemoryObjectStore) -> None:
    keys = [f"a/{n}" for n in range(3 * CONCURRENCY)]
    store.fail("put", times=2, of=lambda key: key in {"a/1", "a/50"})
    failures = store.put_many((key, b"data") for key in keys)
    assert failures.keys() == {"a/1", "a/50"}
    assert all(isinstance(error, UpstreamError) for error in failures.values())
    assert len(store.keys("a/")) == len(keys) - 2


@pytest.mark.parametrize("etag", [None, "e"])
def test_a_write_into_a_bucket_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch, etag: str | None) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FileNotFoundError("<Error><Code>NoSuchBucket</Code></Error>")

    monkeypatch.setattr(obstore, "put", fails)
    store = ObjectStore(MemoryObjectStore().memory, BUCKET, Boto())
    for call in (lambda: store.put("key", b""), lambda: store.write_if_unchanged("key", b"", etag)):
        with pytest.raises(ConfigurationError, match=f"there is no bucket '{BUCKET}': set S3_BUCKET right"):
            call()


def test_the_versions_of_many_are_returned_in_order_without_reading_them(store: MemoryObjectStore) -> None:
    keys = [f"a/{n}" for n in range(3 * CONCURRENCY)]
    etags = {key: store.lay(key, key.encode()) for key in keys[1::2]}
    assert store.versions(keys) == [etags.get(key) for key in keys]
    assert store.versions([]) == []
    assert store.done("get") == []


def test_the_returned_version_is_the_one_that_was_written_read_and_listed(store: MemoryObjectStore) -> None:
    etag = store.write_if_unchanged("a/b", b"data", None)
    stored, (info,) = store.find("a/b"), store.list_objects("a/")
    assert stored
    assert store.versions(["a/b"]) == [etag] == [stored.etag] == [info.etag]


def test_a_listing_is_whole_and_in_order_and_keeps_to_its_folder(store: MemoryObjectStore) -> None:
    keys = [f"lake/symbol=A/{n:04}" for n in range(2_500)]
    for key in [*reversed(keys), "lake/symbol=AB/1", "lake/symbol=A.txt", "other/1"]:
        store.lay(key, b"12345")
    listing = store.list_objects("lake/symbol=A/")
    assert [info.key for info in listing] == keys
    assert {info.size for info in listing} == {5}
    assert listing[7].etag == store.etag(keys[7])
    assert store.list_objects("nowhere/") == []


def test_folders_are_those_right_below(store: MemoryObjectStore) -> None:
    for key in ("lake/b/1", "lake/a/deep/2", "lake/a/3", "lake/file", "elsewhere/c/4"):
        store.lay(key, b"")
    assert store.folders("lake/") == ["lake/a/", "lake/b/"]
    assert store.folders("nowhere/") == []


def test_an_object_is_made_once(store: MemoryObjectStore) -> None:
    etag = store.write_if_unchanged("a", b"first", None)
    with pytest.raises(ConflictError, match=f"s3://{BUCKET}/a was written by another client first"):
        store.write_if_unchanged("a", b"second", None)
    assert (store.peek("a"), store.etag("a")) == (b"first", etag)


def test_a_version_is_replaced_once(store: MemoryObjectStore) -> None:
    first = store.put("a", b"first")
    second = store.write_if_unchanged("a", b"second", first)
    assert second == store.etag("a") != first
    with pytest.raises(ConflictError):
        store.write_if_unchanged("a", b"third", first)
    assert store.peek("a") == b"second"


def test_a_version_that_is_gone_cannot_be_replaced(store: MemoryObjectStore) -> None:
    etag = store.put("a", b"first")
    store.take_away("a")
    with pytest.raises(ConflictError):
        store.write_if_unchanged("a", b"second", etag)
    assert store.peek("a") is None


def test_exactly_the_version_that_was_requested_is_read(store: MemoryObjectStore) -> None:
    etag = store.put("a", b"first")
    assert store.get_version("a", etag).data == b"first"
    store.lay("a", b"second")
    with pytest.raises(ConflictError, match="is no longer version"):
        store.get_version("a", etag)
    store.take_away("a")
    with pytest.raises(ConflictError, match="is no longer version"):
        store.get_version("a", etag)


def appended(letter: bytes) -> Callable[[bytes | None], bytes]:
    return lambda data: (data or b"") + letter


def test_an_update_makes_or_changes_an_object(store: MemoryObjectStore) -> None:
    store.update("a", appended(b"1"))
    store.update("a", appended(b"2"))
    assert store.peek("a") == b"12"


def test_an_update_that_changes_nothing_writes_nothing(store: MemoryObjectStore) -> None:
    store.update("a", lambda _data: None)
    assert store.peek("a") is None
    assert store.done("write") == []


def test_an_update_starts_over_for_as_long_as_others_write(store: MemoryObjectStore, naps: list[float]) -> None:
    for n in range(3):
        store.interfere(lambda n=n: store.lay("a", (store.peek("a") or b"") + str(n).encode()), before_write=n + 1)
    store.update("a", appended(b"!"))
    assert store.peek("a") == b"012!"
    assert len(naps) == 3


def test_an_update_gives_up_when_others_never_stop(store: MemoryObjectStore) -> None:
    for n in range(ATTEMPTS_AT_UPDATE):
        store.interfere(lambda n=n: store.lay("a", str(n).encode()), before_write=n + 1)
    with pytest.raises(ConflictError, match=f"s3://{BUCKET}/a was rewritten by others {ATTEMPTS_AT_UPDATE} times"):
        store.update("a", appended(b"!"))


def lost_answer() -> ConflictError:
    return ConflictError("the write was done and its answer lost, so that a second try met the first")


def test_an_update_whose_answer_was_lost_is_not_applied_twice(store: MemoryObjectStore) -> None:
    store.lay("a", b"1")
    store.fail("answer", lost_answer())
    store.update("a", appended(b"2"))
    assert store.peek("a") == b"12"
    assert store.done("write") == ["a"]


def test_an_object_whose_making_was_not_answered_is_not_made_twice(store: MemoryObjectStore) -> None:
    store.fail("answer", lost_answer())
    store.update("a", appended(b"1"))
    assert store.peek("a") == b"1"


def test_an_update_that_met_a_conflict_and_then_lost_its_answer_is_applied_once(store: MemoryObjectStore) -> None:
    store.interfere(lambda: store.lay("a", b"rival"))
    store.fail("answer", lost_answer())
    store.update("a", appended(b"!"))
    assert store.peek("a") == b"rival!"


def test_only_the_versions_named_are_deleted(store: MemoryObjectStore) -> None:
    same, restated, gone = [(key, store.put(key, b"1")) for key in ("same", "restated", "gone")]
    store.lay("restated", b"2")
    store.take_away("gone")
    assert store.delete_versions([same, restated, gone]) == ["same"]
    assert store.keys() == ["restated"]


class Boto:
    """Answers DeleteObjects with what it was given, and ListObjectsV2 page by page."""

    def __init__(self, answer: Any = None, *pages: Any) -> None:  # noqa: ANN401 (answers or errors)
        self.answer, self.pages = answer, pages
        self.asked: list[dict[str, str]] = []

    def delete_objects(self, *, Bucket: str, Delete: Any) -> Any:  # noqa: ANN401, ARG002, N803 (boto's own shape)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def get_paginator(self, operation_name: str) -> "Boto":
        assert operation_name == "list_objects_v2"
        return self

    def paginate(self, **request: str) -> Iterator[Any]:
        self.asked.append(request)
        for page in self.pages:
            if isinstance(page, Exception):
                raise page
            yield page


def denial(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "AnyOperation")


def test_a_key_that_s3_fails_on_by_itself_is_not_counted_as_deleted() -> None:
    failed = {"Key": "a", "Code": "InternalError", "Message": "try again"}
    store = ObjectStore(MemoryObjectStore().memory, BUCKET, Boto({"Errors": [failed], "Deleted": [{"Key": "b"}]}))
    assert store.delete_versions([("a", "etag"), ("b", "etag")]) == ["b"]


FAILURES = [denial("SlowDown"), denial("AccessDenied"), EndpointConnectionError(endpoint_url="x")]


@pytest.mark.parametrize("answer", FAILURES)
def test_a_deletion_that_fails_or_is_refused_may_be_tried_again(answer: Exception) -> None:
    store = ObjectStore(MemoryObjectStore().memory, BUCKET, Boto(answer))
    with pytest.raises(UpstreamError, match=f"S3 does not delete in s3://{BUCKET}: "):
        store.delete_versions([("a", "etag")])


@pytest.fixture
def odd_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let obstore list nothing, as it does if one key of the folder has an empty or a dot segment."""

    def fails(*_: object) -> None:
        raise InvalidPathError("Path contained empty path segment")

    def fails_on_the_way(*_: object) -> Iterator[list[Any]]:
        yield []
        fails()

    monkeypatch.setattr(obstore, "list", fails_on_the_way)
    monkeypatch.setattr(obstore, "list_with_delimiter", fails)


AT = datetime(2025, 11, 20, 12, tzinfo=UTC)


def contents(*keys: str) -> dict[str, Any]:
    return {"Contents": [{"Key": key, "ETag": f'"{key}"', "Size": 5, "LastModified": AT} for key in keys]}


@pytest.mark.usefixtures("odd_folder")
def test_a_folder_with_a_key_that_obstore_refuses_is_listed_all_the_same() -> None:
    pages = contents("symbol=A/./x", "symbol=A//x.parquet"), {}, contents("symbol=A/date=2025-11-19.parquet")
    boto = Boto(None, *pages)
    listing = ObjectStore(MemoryObjectStore().memory, BUCKET, boto).list_objects("symbol=A/")
    assert boto.asked == [{"Bucket": BUCKET, "Prefix": "symbol=A/"}]
    keys = ["symbol=A/./x", "symbol=A//x.parquet", "symbol=A/date=2025-11-19.parquet"]
    assert listing == [ObjectInfo(key, f'"{key}"', 5, AT) for key in keys]


@pytest.mark.usefixtures("odd_folder")
@pytest.mark.parametrize("answer", FAILURES)
def test_a_listing_that_fails_the_second_way_too_may_be_tried_again(answer: Exception) -> None:
    store = ObjectStore(MemoryObjectStore().memory, BUCKET, Boto(None, contents("a/1"), answer))
    with pytest.raises(UpstreamError, match=f"S3 does not list s3://{BUCKET}/a/: "):
        store.list_objects("a/")


@pytest.mark.usefixtures("odd_folder")
def test_folders_among_which_is_one_that_obstore_refuses_are_listed_all_the_same() -> None:
    boto = Boto(
        None,
        {"CommonPrefixes": [{"Prefix": "lake//"}]},
        contents("lake/x"),
        {"CommonPrefixes": [{"Prefix": "lake/a/"}]},
    )
    assert ObjectStore(MemoryObjectStore().memory, BUCKET, boto).folders("lake/") == ["lake//", "lake/a/"]
    assert boto.asked == [{"Bucket": BUCKET, "Prefix": "lake/", "Delimiter": "/"}]


@pytest.mark.usefixtures("odd_folder")
@pytest.mark.parametrize("answer", FAILURES)
def test_folders_that_cannot_be_listed_the_second_way_either_may_be_tried_again(answer: Exception) -> None:
    store = ObjectStore(MemoryObjectStore().memory, BUCKET, Boto(None, answer))
    with pytest.raises(UpstreamError, match=f"S3 does not list s3://{BUCKET}/lake/: "):
        store.folders("lake/")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionDeniedError, "S3 refuses s3://{}/key/: check the role's policy and the credentials"),
        (UnauthenticatedError, "S3 refuses s3://{}/key/: check the role's policy and the credentials"),
        (GenericError, "S3 failed on s3://{}/key/: GenericError first of the details"),
    ],
)
def test_what_s3_answers_becomes_an_error_that_is_retried_and_names_the_object(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseError], sentence: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error("\nfirst of the details\nmore that only a developer understands")

    for name in ("get", "head", "put", "list", "list_with_delimiter"):
        monkeypatch.setattr(obstore, name, fails)
    store = ObjectStore(MemoryObjectStore().memory, BUCKET, Boto())
    calls: list[Callable[[], object]] = [
        lambda: store.find("key/"), lambda: store.get_version("key/", "e"), lambda: store.versions(["key/"]),
        lambda: store.list_objects("key/"), lambda: store.folders("key/"), lambda: store.put("key/", b""),
        lambda: store.write_if_unchanged("key/", b"", None),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UpstreamError) as raised:
            call()
        assert str(raised.value) == sentence.format(BUCKET)


def test_pauses_grow_to_a_second_and_are_random() -> None:
    series = [list(backoff_delays(40)) for _ in range(200)]
    assert {len(pauses) for pauses in series} == {40}
    assert max(pauses[0] for pauses in series) <= 0.02
    assert 0.5 < max(pauses[-1] for pauses in series) <= 1
    assert len({pauses[-1] for pauses in series}) > 100


def test_the_last_bytes_of_an_empty_object_are_none(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 refuses a range of an empty object; the reader must not report that as a failure of S3."""
    store.lay("a/empty", b"")
    store.lay("a/full", b"0123456789")
    get = obstore.get

    def as_s3_answers(backend: Any, key: str, **arguments: Any) -> Any:  # noqa: ANN401 (obstore's)
        if key == "a/empty" and "range" in (arguments.get("options") or {}):
            raise GenericError("416 Range Not Satisfiable: <Error><Code>InvalidRange</Code></Error>")
        return get(backend, key, **arguments)

    monkeypatch.setattr(obstore, "get", as_s3_answers)
    tails = store.tails(["a/empty", "a/full", "a/none"], 4)
    assert [tail and tail.data for tail in tails] == [b"", b"6789", None]


@pytest.mark.parametrize(
    ("endpoint", "is_excluded"),
    [
        ("http://127.0.0.1:9", True), ("http://localhost:9", True), ("http://[::1]:9", True),
        ("http://s3.example:9", False), ("http://127.0.0.1.example:9", False), (None, False),
    ],
)  # fmt: skip
def test_requests_to_this_machine_go_to_no_proxy(
    endpoint: str | None, *, is_excluded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`proxy_url` replaces the proxy of the environment, and `proxy_excludes` keeps the requests from it."""
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    store_options: dict[str, Any] = {}
    monkeypatch.setattr(objects, "S3Store", lambda _bucket, **options: store_options.update(options))
    s3_backend("b", endpoint=endpoint)
    options = store_options["client_options"]
    assert options.get("proxy_url") == (endpoint if is_excluded else None)
    assert options.get("proxy_excludes") == ("localhost,127.0.0.1,::1" if is_excluded else None)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_the_endpoint_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert "127.0.0.1:9" in repr(ObjectStore.connect("lake")._backend.config)  # noqa: SLF001 (what was opened)


def test_boto_makes_a_client_when_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(name: str) -> MemoryDeleter:
        made.append(name)
        return MemoryDeleter(MemoryObjectStore())

    made: list[str] = []
    monkeypatch.setattr("boto3.client", client)
    store = ObjectStore.connect(BUCKET)
    assert made == []
    store.delete_versions([("a", "etag")])
    store.delete_versions([("a", "etag")])
    assert made == ["s3"]


def test_a_profiles_credentials_are_found_by_boto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[prod]\naws_access_key_id = of-the-profile\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "prod")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store_options: dict[str, Any] = {}
    monkeypatch.setattr(objects, "S3Store", lambda _bucket, **options: store_options.update(options))
    s3_backend("b")
    assert store_options["credential_provider"]()["access_key_id"] == "of-the-profile"


@pytest.mark.parametrize(
    ("bucket", "endpoint", "in_the_host"),
    [("lake", None, True), ("lake.of.ours", None, False), ("lake", "http://127.0.0.1:1", False), ("lake", "", True)],
)
def test_the_bucket_is_in_the_host_name_on_aws_and_in_the_path_elsewhere(
    bucket: str, endpoint: str | None, *, in_the_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    config = s3_backend(bucket).config
    assert str(config["virtual_hosted_style_request"]).lower() == str(in_the_host).lower()
