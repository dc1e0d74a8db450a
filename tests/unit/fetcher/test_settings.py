from datetime import UTC, date, datetime

import pytest

from fiblake.errors import ConfigurationError, ContractError
from services.fetcher.settings import FetcherSettings, FetchEvent, MetadataSettings
from shared.settings import load

KEY = "s3cret-K3Y"
ARN = "arn:key"
NEEDED = {"S3_BUCKET": "a-bucket", "RDS_SECRET_ARN": "arn:rds", "MASSIVE_API_KEY": KEY}
KNOWN = (
    *NEEDED, "S3_PREFIX", "DATABASE_TLS", "MARKET_DATA_VENDOR", "MARKET_DATA_URL", "POLYGON_API_KEY_SECRET_ARN",
    "POLYGON_API_KEY",
    "UNIVERSE", "UNIVERSE_TYPES", "FIRST_SESSION", "HISTORY_FROM", "REQUESTS_PER_MINUTE", "LOOK_BACK_SESSIONS",
    "PRICE_JUMP_LIMIT",
)  # fmt: skip


def settings(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> FetcherSettings:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    for name, value in (NEEDED | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return load(FetcherSettings)


def test_what_is_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = settings(monkeypatch)
    assert (defaults.s3_bucket, defaults.s3_prefix, defaults.rds_secret_arn) == (
        "a-bucket",
        "bronze/raw_ohlcv",
        "arn:rds",
    )
    assert (defaults.database_tls, defaults.market_data_url) == ("verify-full", "https://api.massive.com")
    assert (defaults.universe, defaults.first_session, defaults.polygon_api_key_secret_arn) == (frozenset(), None, None)
    assert defaults.universe_types == {"CS", "ADRC", "ETF"}
    assert (defaults.requests_per_minute, defaults.history_from) == (None, None)
    assert (defaults.look_back_sessions, defaults.price_jump_limit) == (5, 3.0)


@pytest.mark.parametrize("name", ["S3_BUCKET", "RDS_SECRET_ARN"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    with pytest.raises(ConfigurationError, match=f"environment variables to set right: {name}: field required"):
        settings(monkeypatch, **{name: value})


@pytest.mark.parametrize("name", ["METADATA_DETAILS_DAYS", "METADATA_DIVIDENDS_DAYS", "HISTORY_RETRY_HOURS"])
def test_a_time_beyond_all_dates_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable, value in (NEEDED | {"HISTORY_QUEUE_URL": "q", name: "1000000000"}).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"set right: {name}: input should be less than or equal to"):
        load(MetadataSettings)


def test_a_missing_key_is_an_error_that_names_the_variables_that_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"set POLYGON_API_KEY_SECRET_ARN, or MASSIVE_API_KEY for a local run"):
        settings(monkeypatch, MASSIVE_API_KEY=None)


@pytest.mark.parametrize("name", ["MASSIVE_API_KEY", "POLYGON_API_KEY"])
def test_the_key_may_have_either_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    loaded = settings(monkeypatch, **{"MASSIVE_API_KEY": None} | {name: KEY})
    assert loaded.api_key is not None
    assert loaded.api_key.get_secret_value() == KEY


def test_a_secrets_arn_is_key_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = settings(monkeypatch, MASSIVE_API_KEY=None, POLYGON_API_KEY_SECRET_ARN=ARN)
    assert (loaded.polygon_api_key_secret_arn, loaded.api_key) == (ARN, None)


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


def test_a_schedules_event_means_now() -> None:
    fetch_event = FetchEvent.of({"version": "0", "detail-type": "Scheduled Event", "source": "aws.scheduler"})
    assert (fetch_event.now(CLOCK), fetch_event.first, fetch_event.symbols, fetch_event.look_back) == (
        CLOCK,
        None,
        (),
        True,
    )


@pytest.mark.parametrize(
    ("as_of", "instant"),
    [
        ("2025-11-19", datetime(2025, 11, 19, 21, tzinfo=UTC)),  # the evening in New York, standard time
        ("2025-07-15", datetime(2025, 7, 15, 20, tzinfo=UTC)),  # and summer time
        ("2025-11-19T16:05:00-05:00", datetime(2025, 11, 19, 21, 5, tzinfo=UTC)),
        ("2025-11-19T21:05:00Z", datetime(2025, 11, 19, 21, 5, tzinfo=UTC)),
    ],
)
def test_a_past_day_or_instant_may_be_requested(as_of: str, instant: datetime) -> None:
    assert event(as_of=as_of).now(CLOCK) == instant


@pytest.mark.parametrize("as_of", ["2025-11-19T16:05:00", "2025-13-01", "2025-02-30", "yesterday", ""])
def test_an_instant_without_its_offset_or_a_day_that_is_none_is_refused(as_of: str) -> None:
    with pytest.raises(ContractError, match="as_of"):
        event(as_of=as_of)


def test_sessions_are_named_by_first_and_last() -> None:
    fetch_event = event(**{"from": "2000-01-03", "to": "2000-01-31"})
    assert (fetch_event.first, fetch_event.last, fetch_event.again) == (date(2000, 1, 3), date(2000, 1, 31), False)


def test_one_date_is_that_session_again() -> None:
    fetch_event = event(date="2025-11-19")
    assert (fetch_event.first, fetch_event.last, fetch_event.again) == (date(2025, 11, 19), date(2025, 11, 19), True)


def test_symbols_are_named_with_where_their_history_begins() -> None:
    fetch_event = event(symbols=["BRK.B", "KIMpL"], **{"from": "2000-01-03"})
    assert (fetch_event.symbols, fetch_event.first) == (("BRK.B", "KIMpL"), date(2000, 1, 3))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"date": "2025-11-19", "from": "2025-11-18"}, "say either"),
        ({"from": "2025-11-19", "to": "2025-11-18"}, "from 2025-11-19 lies after to 2025-11-18"),
        ({"date": "2025-02-30"}, "date"),
        ({"from": "soon"}, "from"),
    ],
)
def test_sessions_that_cannot_be_are_refused(fields: dict[str, str], fault: str) -> None:
    with pytest.raises(ContractError, match=fault):
        event(**fields)


@pytest.mark.parametrize("symbol", ["", "../AAPL", "A B", "X" * 17])
def test_what_is_no_symbol_is_refused(symbol: str) -> None:
    with pytest.raises(ContractError, match="is not a symbol"):
        event(symbols=[symbol])


@pytest.mark.parametrize(
    ("event", "fault"),
    [({"symbol": ["AAPL"]}, "symbol: Extra inputs"), ({"as_of": 20130227}, "is text"), ([], "event")],
)
def test_an_event_with_an_unknown_option_is_refused_with_the_known_ones(event: object, fault: str) -> None:
    with pytest.raises(ContractError, match=fault) as raised:
        FetchEvent.of(event)
    assert "not a FetchEvent (as_of, from, to, date, again, symbols, look_back are known)" in str(raised.value)


def test_an_instant_to_come_is_now() -> None:
    now = datetime(2025, 11, 19, 21, 5, tzinfo=UTC)
    assert FetchEvent.of({"as_of": "2027-06-01"}).now(now) == now
