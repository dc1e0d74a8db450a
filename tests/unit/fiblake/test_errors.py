from fiblake import errors
from fiblake.calendar import CalendarRangeError, NotASessionError
from fiblake.errors import ConfigurationError, ContractError, FiblakeError, PermanentError, TransientError

OURS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FiblakeError)]


def test_every_error_is_either_retried_or_for_good() -> None:
    leaves = [kind for kind in OURS if kind is not FiblakeError]
    assert all(issubclass(kind, TransientError) != issubclass(kind, PermanentError) for kind in leaves)


def test_the_tree_in_the_modules_head_names_them_all() -> None:
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in OURS)


def test_an_outdated_calendar_is_a_setting_and_a_wrong_day_a_broken_contract() -> None:
    assert issubclass(CalendarRangeError, ConfigurationError)
    assert issubclass(NotASessionError, ContractError)
