import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fiblake
from fiblake.errors import ConfigurationError, ContractError, EntitlementError, NotFoundError
from fiblake.objects import s3_backend
from fiblake.reader import opening
from tests.fakes import REPOSITORY

HEAVY = ("boto3", "botocore", "duckdb", "matplotlib", "numpy", "obstore", "pandas", "polars", "pyarrow")


def modules_after(program: str) -> set[str]:
    ask = f"{program}; import sys; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", ask], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in process.stdout.split()}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert modules_after("import fiblake").isdisjoint(HEAVY)


def test_opening_a_lake_imports_no_more_than_its_three_dependencies() -> None:
    program = "import os; os.environ.update(AWS_ACCESS_KEY_ID='x', AWS_SECRET_ACCESS_KEY='y')"
    loaded = modules_after(f"{program}; import fiblake; fiblake.open(bucket='b')")
    assert loaded.intersection(HEAVY) == {"numpy", "obstore", "pyarrow"}


def test_the_package_lists_its_names_and_has_no_others() -> None:
    assert {"open", "Lake", "Result", "FiblakeError"} <= set(dir(fiblake))
    with pytest.raises(AttributeError, match="no attribute 'shut'"):
        _ = fiblake.shut  # type: ignore[attr-defined]


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options that the bucket was opened with."""
    options: dict[str, Any] = {}

    def opened(bucket: str, **more: Any) -> object:  # noqa: ANN401 (obstore's)
        options.update(more, bucket=bucket)
        return s3_backend(bucket, **more)

    monkeypatch.setattr(opening, "s3_backend", opened)
    return options


def test_a_bucket_is_opened_with_the_environments_credentials(options: dict[str, Any]) -> None:
    lake = fiblake.open(bucket="lake", endpoint_url="http://127.0.0.1:9", region="eu-west-1", prefix="other/bars/")
    assert options == {"bucket": "lake", "endpoint": "http://127.0.0.1:9", "region": "eu-west-1"}
    assert repr(lake) == "<fiblake.Lake: s3://lake>"
    assert lake.bronze.data_key("A") == "other/bars/symbol=A/data.parquet"


def test_a_cache_below_the_users_home_is_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fiblake.open(bucket="lake", cache="~/copies").cache == tmp_path / "copies"


def test_a_profiles_credentials_are_found_by_boto(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("[research]\naws_access_key_id = theirs\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    fiblake.open(bucket="lake", profile="research")
    assert options["credential_provider"]()["access_key_id"] == "theirs"
    with pytest.raises(ConfigurationError, match=r"profile='nobody' cannot be used: .*nobody"):
        fiblake.open(bucket="lake", profile="nobody")


def test_without_any_credentials_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(EntitlementError, match="no AWS credentials are found: set AWS_ACCESS_KEY_ID"):
        fiblake.open(bucket="lake")


@pytest.mark.parametrize("name", ["prod", None])
def test_a_stacks_bucket_is_requested(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    from fiblake import stacks  # noqa: PLC0415 (as the reader does)

    monkeypatch.setenv("FIBLAKE_STACK", "prod")
    monkeypatch.setattr(stacks, "outputs_of", lambda _client, stack: {"BucketName": f"{stack}-lake"})
    fiblake.open(stack=name, region="us-east-1")
    assert options["bucket"] == "prod-lake"
    monkeypatch.setattr(stacks, "outputs_of", lambda _client, _stack: {})
    with pytest.raises(NotFoundError, match="stack prod has no output BucketName: is it fiblake's"):
        fiblake.open(stack="prod", region="us-east-1")


@pytest.mark.parametrize("options", [{"stack": "prod"}, {"bucket": "b", "profile": "p"}])
def test_without_boto_the_error_names_the_extra(options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:  # noqa: ANN401 (a module)
        raise ImportError(name)

    monkeypatch.setattr(opening, "import_module", missing)
    with pytest.raises(ConfigurationError, match=r"boto3, which is not installed: pip install 'fiblake\[aws\]', or"):
        fiblake.open(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bucket": "b", "stack": "s"}, "name one of stack=, bucket= and local=True"),
        ({"bucket": "b", "local": True}, "name one of"),
        ({"bucket": "b", "endpoint_url": "localhost:4566"}, "is no URL such as http://localhost:4566"),
        ({"bucket": ""}, "bucket='' is empty: name one, or leave bucket= out"),
        ({"stack": " "}, "stack=' ' is empty: name one, or leave stack= out"),
        ({"bucket": "b", "cache": ""}, "cache='' is empty"),
        ({"bucket": "b", "prefix": "/"}, "prefix='' is empty"),
        ({"bucket": "s3://b"}, "bucket='s3://b' is no bucket's name: leave out s3://"),
        ({"bucket": "b", "cache": "~no-such-user/x"}, "cache='~no-such-user/x' cannot be used: .*name the folder"),
    ],
)
def test_options_that_contradict_each_other_or_name_nothing_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        fiblake.open(**options)


def test_a_local_stack_that_is_up_is_found(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIBLAKE_LOCAL_FOLDER", str(tmp_path / "stack"))
    with pytest.raises(NotFoundError, match="no local stack is up: start one with `fiblake local up`"):
        fiblake.open(local=True)
    state = {"endpoint_url": "http://127.0.0.1:4", "outputs": {"BucketName": "local-lake"}}
    (tmp_path / "stack.json").write_text(json.dumps(state))
    (tmp_path / "stack.lock").touch()
    with pytest.raises(NotFoundError):  # its supervisor was killed
        fiblake.open(local=True)
    with (tmp_path / "stack.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fiblake.open(local=True)
        assert (options["bucket"], options["endpoint"]) == ("local-lake", "http://127.0.0.1:4")
        (tmp_path / "stack.json").write_text("{}")
        with pytest.raises(ContractError, match=r"cannot be read.*start the stack again"):
            fiblake.open(local=True)


def test_a_checkouts_local_stack_is_found_from_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local/stack.json").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert opening._local_state() == tmp_path / ".local/stack.json"  # noqa: SLF001 (where it looks)


def test_a_folder_that_cannot_be_listed_names_the_remedy() -> None:
    reader = opening.BucketReader(s3_backend("lake"), "lake")
    with pytest.raises(ContractError, match=r"s3://lake/a/ cannot be listed: .* delete that object"):
        reader._list_odd_keys("a/")  # noqa: SLF001 (what listing does then)
    with pytest.raises(ContractError, match="delete that object"):
        reader._list_odd_folders("a/")  # noqa: SLF001 (the same)
