from datetime import UTC, date, datetime

import pytest

from services.fetcher.settings import FetcherSettings, FetchEvent
from shared.errors import ConfigurationError, ContractError
from shared.settings import load

KEY = "s3cret-K3Y"
ARN = "arn:key"
NEEDED = {"S3_BUCKET": "a-bucket", "RDS_SECRET_ARN": "arn:rds", "MASSIVE_API_KEY": KEY}
KNOWN = (
    *NEEDED, "S3_PREFIX", "DATABASE_TLS", "MARKET_DATA_URL", "POLYGON_API_KEY_SECRET_ARN", "POLYGON_API_KEY",
    "UNIVERSE", "FIRST_SESSION",
)  # fmt: skip


def settings(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> FetcherSettings:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    for name, value in (NEEDED | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return load(FetcherSettings)


def test_what_is_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch)
    assert (found.s3_bucket, found.s3_prefix, found.rds_secret_arn) == ("a-bucket", "bronze/raw_ohlcv", "arn:rds")
    assert (found.database_tls, found.market_data_url) == ("verify-full", "https://api.massive.com")
    assert (found.universe, found.first_session, found.polygon_api_key_secret_arn) == (frozenset(), None, None)


@pytest.mark.parametrize("name", ["S3_BUCKET", "RDS_SECRET_ARN"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    with pytest.raises(ConfigurationError, match=f"environment variables to set right: {name}: field required"):
        settings(monkeypatch, **{name: value})


def test_a_missing_key_is_an_error_that_names_the_variables_that_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"set POLYGON_API_KEY_SECRET_ARN, or MASSIVE_API_KEY for a local run"):
        settings(monkeypatch, MASSIVE_API_KEY=None)


@pytest.mark.parametrize("name", ["MASSIVE_API_KEY", "POLYGON_API_KEY"])
def test_the_key_may_have_either_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = settings(monkeypatch, **{"MASSIVE_API_KEY": None} | {name: KEY})
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == KEY


def test_a_secrets_arn_is_key_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, MASSIVE_API_KEY=None, POLYGON_API_KEY_SECRET_ARN=ARN)
    assert (found.polygon_api_key_secret_arn, found.api_key) == (ARN, None)


def test_the_key_is_in_no_repr_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in repr(settings(monkeypatch))
    with pytest.raises(ConfigurationError) as raised:
        settings(monkeypatch, S3_BUCKET=None, DATABASE_TLS="maybe")
    assert KEY not in str(raised.value)
    assert "DATABASE_TLS" in str(raised.value)


@pytest.mark.parametrize(
    ("value", "universe"),
    [
        ("", set()), (",", set()), ("AAPL", {"AAPL"}), ("AAPL,MSFT", {"AAPL", "MSFT"}),
        (" AAPL , BRK.B ,,KIMpL,", {"AAPL", "BRK.B", "KIMpL"}),
    ],
)  # fmt: skip
def test_the_universe_is_a_list_with_commas(monkeypatch: pytest.MonkeyPatch, value: str, universe: set[str]) -> None:
    assert settings(monkeypatch, UNIVERSE=value).universe == universe


def test_the_first_session_is_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, FIRST_SESSION="2020-01-02").first_session == date(2020, 1, 2)
    with pytest.raises(ConfigurationError, match="FIRST_SESSION"):
        settings(monkeypatch, FIRST_SESSION="yesterday")


# ---------------------------------------------------------------------------------------------------------- the event

CLOCK = datetime(2025, 11, 20, 21, 5, tzinfo=UTC)


def event(**fields: object) -> FetchEvent:
    return FetchEvent.of(fields)


def test_a_schedules_event_asks_for_now() -> None:
    asked = FetchEvent.of({"version": "0", "detail-type": "Scheduled Event", "source": "aws.scheduler"})
    assert (asked.now(CLOCK), asked.backfill) == (CLOCK, ())


@pytest.mark.parametrize(
    ("as_of", "instant"),
    [
        ("2025-11-19", datetime(2025, 11, 19, 21, tzinfo=UTC)),  # the evening in New York, standard time
        ("2025-07-15", datetime(2025, 7, 15, 20, tzinfo=UTC)),  # and summer time
        ("2025-11-19T16:05:00-05:00", datetime(2025, 11, 19, 21, 5, tzinfo=UTC)),
        ("2025-11-19T21:05:00Z", datetime(2025, 11, 19, 21, 5, tzinfo=UTC)),
    ],
)
def test_a_past_day_or_instant_may_be_asked_for(as_of: str, instant: datetime) -> None:
    assert event(as_of=as_of).now(CLOCK) == instant


@pytest.mark.parametrize("as_of", ["2025-11-19T16:05:00", "2025-13-01", "2025-02-30", "yesterday", ""])
def test_an_instant_without_its_offset_or_a_day_that_is_none_is_refused(as_of: str) -> None:
    with pytest.raises(ContractError, match="as_of"):
        event(as_of=as_of)


def test_a_backfill_names_symbols_and_where_to_begin() -> None:
    assert event(backfill=["BRK.B", "KIMpL"]).backfill_from == date(1962, 1, 2)
    asked = event(backfill=["AAPL"], backfill_from="2000-01-03")
    assert (asked.backfill, asked.backfill_from) == (("AAPL",), date(2000, 1, 3))


@pytest.mark.parametrize("symbol", ["", "../AAPL", "A B", "X" * 17])
def test_a_backfill_of_what_is_no_symbol_is_refused(symbol: str) -> None:
    with pytest.raises(ContractError, match="is not a symbol"):
        event(backfill=[symbol])


@pytest.mark.parametrize(
    ("event", "fault"),
    [({"backfil": ["AAPL"]}, "backfil: Extra inputs"), ({"as_of": 20130227}, "is text"), ([], "event")],
)
def test_an_event_that_asks_for_what_is_not_known_is_refused_with_what_is(event: object, fault: str) -> None:
    with pytest.raises(ContractError, match=fault) as raised:
        FetchEvent.of(event)
    assert "as_of, backfill, backfill_from are known" in str(raised.value)


def test_an_instant_to_come_is_now() -> None:
    now = datetime(2025, 11, 19, 21, 5, tzinfo=UTC)
    assert FetchEvent.of({"as_of": "2027-06-01"}).now(now) == now
