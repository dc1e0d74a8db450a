"""The fetchers' user in real Postgres: other tests of the database show its rights, these show what is refused."""

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from fiblake.errors import ConfigurationError, EntitlementError
from migrations import schema
from migrations.fetcher_user import TABLES, set_up_fetcher_user
from shared.database import DatabaseAddress, Tls, connected
from tests.integration.databases import ask, fetcher_of

PLAIN = Tls(verify=False)
PASSWORD = 'it\'s "secret"'  # noqa: S105 (nobody's)
ANOTHER = "another"


@pytest.fixture
def fetcher(address: DatabaseAddress) -> DatabaseAddress:
    """A user that does not exist on the server yet."""
    schema.upgrade(address, PLAIN)
    return replace(address, user=f"fetcher-{uuid.uuid4().hex}", _password=PASSWORD)


@pytest.fixture
def asked_for_passwords(server: DatabaseAddress) -> Iterator[None]:
    """Let the server require a password of every user except its own, as any real server does."""
    [shown] = asyncio.run(ask(server, "SHOW hba_file"))
    file = Path(shown["hba_file"])
    before = file.read_text(encoding="utf-8")
    file.write_text(f"local all {server.user} trust\nlocal all all scram-sha-256\n", encoding="utf-8")
    asyncio.run(ask(server, "SELECT pg_reload_conf()"))
    yield
    file.write_text(before, encoding="utf-8")
    asyncio.run(ask(server, "SELECT pg_reload_conf()"))


def logs_in(address: DatabaseAddress) -> bool:
    try:
        asyncio.run(ask(address, "SELECT 1"))
    except asyncpg.InvalidPasswordError:
        return False
    return True


@pytest.mark.usefixtures("asked_for_passwords")
def test_the_user_logs_in_with_the_secrets_password_and_with_no_other(
    address: DatabaseAddress, fetcher: DatabaseAddress
) -> None:
    set_up_fetcher_user(address, fetcher, PLAIN)
    assert (logs_in(fetcher), logs_in(replace(fetcher, _password=ANOTHER))) == (True, False)

    changed = replace(fetcher, _password=ANOTHER)
    set_up_fetcher_user(address, changed, PLAIN)
    assert (logs_in(fetcher), logs_in(changed)) == (False, True)


@pytest.mark.usefixtures("asked_for_passwords")
def test_doing_it_twice_leaves_the_password_as_it_is(address: DatabaseAddress, fetcher: DatabaseAddress) -> None:
    stored = []
    for _ in range(2):
        set_up_fetcher_user(address, fetcher, PLAIN)
        stored += asyncio.run(ask(address, "SELECT rolpassword FROM pg_authid WHERE rolname = $1", fetcher.user))
    assert stored[0] == stored[1]
    assert stored[0]["rolpassword"].startswith("SCRAM-SHA-256$")


def test_every_table_of_the_schema_and_no_other_is_the_users_to_read_and_write(migrated: DatabaseAddress) -> None:
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    assert sorted(row["tablename"] for row in asyncio.run(ask(migrated, tables))) == list(TABLES)
    rights = asyncio.run(ask(migrated,
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = $1",
        fetcher_of(migrated).user,
    ))  # fmt: skip
    expected = {(table, right) for table in TABLES for right in ("SELECT", "INSERT", "UPDATE", "DELETE")}
    assert {(row["table_name"], row["privilege_type"]) for row in rights} == expected


def test_a_right_that_the_user_should_not_have_is_taken_away(migrated: DatabaseAddress) -> None:
    fetcher = fetcher_of(migrated)
    asyncio.run(ask(migrated, f"GRANT TRUNCATE ON raw_ohlcv TO {fetcher.user}"))
    set_up_fetcher_user(migrated, fetcher, PLAIN)
    assert refusal(fetcher, "TRUNCATE raw_ohlcv").startswith("permission denied")


def test_the_user_may_do_nothing_else(migrated: DatabaseAddress) -> None:
    asyncio.run(ask(migrated, "CREATE TABLE somebody_elses (a int)"))
    for statement in (
        "CREATE TABLE more (a int)",
        "CREATE SCHEMA more",
        "CREATE VIEW more AS SELECT * FROM raw_ohlcv",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX ON raw_ohlcv (close)",
        "DROP TABLE raw_ohlcv",
        "ALTER TABLE raw_ohlcv ADD COLUMN more int",
        "ALTER TABLE raw_ohlcv OWNER TO CURRENT_USER",
        "TRUNCATE raw_ohlcv",
        "SELECT * FROM alembic_version",
        "SELECT * FROM somebody_elses",
        "INSERT INTO somebody_elses VALUES (1)",
        "GRANT SELECT ON somebody_elses TO CURRENT_USER",
        "SELECT * FROM pg_authid",
        "SELECT pg_read_file('/etc/hosts')",
        "COPY raw_ohlcv TO PROGRAM 'cat'",
        "CREATE DATABASE more",
        "CREATE ROLE more",
        "SET ROLE postgres",
        "ALTER SYSTEM SET work_mem = '1GB'",
    ):
        assert refusal(fetcher_of(migrated), statement)


def test_in_another_database_of_the_server_the_user_may_do_nothing(
    server: DatabaseAddress, migrated: DatabaseAddress
) -> None:
    asyncio.run(ask(server, "CREATE TABLE IF NOT EXISTS theirs (a int)"))
    for statement in ("SELECT * FROM theirs", "INSERT INTO theirs VALUES (1)", "CREATE TABLE more (a int)"):
        assert refusal(replace(fetcher_of(migrated), database=server.database), statement)


def refusal(address: DatabaseAddress, statement: str) -> str:
    """Return the server's error about a statement that the user may not execute."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as raised:
        asyncio.run(ask(address, statement))
    return str(raised.value)


def test_a_service_without_rights_gets_an_error_with_the_remedy(migrated: DatabaseAddress) -> None:
    fetcher = fetcher_of(migrated)
    asyncio.run(ask(migrated, "REVOKE SELECT ON data_ingestion_watermark FROM fiblake_fetcher"))

    async def watermark() -> None:
        async with connected(fetcher, PLAIN) as database:
            await database.watermark()

    with pytest.raises(
        ConfigurationError, match="data_ingestion_watermark: `fiblake migrate` gives the fetchers' user"
    ):
        asyncio.run(watermark())
    set_up_fetcher_user(migrated, fetcher, PLAIN)
    asyncio.run(watermark())


def test_one_user_for_both_is_refused(address: DatabaseAddress) -> None:
    with pytest.raises(ConfigurationError, match=f"both secrets name the user {address.user}"):
        set_up_fetcher_user(address, replace(address, _password=PASSWORD), PLAIN)


def test_a_user_that_administers_the_server_is_refused(address: DatabaseAddress, fetcher: DatabaseAddress) -> None:
    asyncio.run(ask(address, f'CREATE ROLE "{fetcher.user}" LOGIN CREATEDB'))
    with pytest.raises(ConfigurationError, match=f"{fetcher.user} administers the database or owns its tables"):
        set_up_fetcher_user(address, fetcher, PLAIN)


def test_a_user_that_belongs_to_the_owner_is_refused(address: DatabaseAddress, fetcher: DatabaseAddress) -> None:
    asyncio.run(ask(address, f'CREATE ROLE "{fetcher.user}" LOGIN IN ROLE {address.user}'))
    with pytest.raises(ConfigurationError, match="administers the database or owns its tables"):
        set_up_fetcher_user(address, fetcher, PLAIN)


def test_where_everybody_may_create_tables_the_sentence_says_how_to_end_it(
    address: DatabaseAddress, fetcher: DatabaseAddress
) -> None:
    asyncio.run(ask(address, "GRANT CREATE ON SCHEMA public TO PUBLIC"))
    with pytest.raises(ConfigurationError, match="REVOKE CREATE ON SCHEMA public FROM PUBLIC"):
        set_up_fetcher_user(address, fetcher, PLAIN)
    asyncio.run(ask(address, "REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    set_up_fetcher_user(address, fetcher, PLAIN)


def test_an_owner_that_may_create_no_user_gets_an_error_with_the_remedy(address: DatabaseAddress) -> None:
    owner = f"owner_{uuid.uuid4().hex}"
    asyncio.run(ask(address, f"CREATE ROLE {owner} LOGIN"))
    asyncio.run(ask(address, f"GRANT CREATE ON SCHEMA public TO {owner}"))
    ours, made = replace(address, user=owner), replace(address, user=f"{owner}_2", _password=PASSWORD)
    schema.upgrade(ours, PLAIN)
    with pytest.raises(EntitlementError, match=f"ALTER ROLE {owner} CREATEROLE"):
        set_up_fetcher_user(ours, made, PLAIN)

    asyncio.run(ask(address, f"CREATE ROLE {made.user} LOGIN"))  # by hand
    set_up_fetcher_user(ours, made, PLAIN)


@pytest.mark.parametrize("password", ["", "pässword", "a\nb"])
def test_a_password_that_cannot_be_is_refused_and_not_quoted(
    address: DatabaseAddress, fetcher: DatabaseAddress, password: str
) -> None:
    with pytest.raises(ConfigurationError, match="must be of printable ASCII characters") as raised:
        set_up_fetcher_user(address, replace(fetcher, _password=password), PLAIN)
    assert "ssword" not in str(raised.value).replace("the password", "")
