import pytest

from services.fetcher.sectors import sector_of


@pytest.mark.parametrize(
    ("code", "sector"),
    [
        ("0100", "Agriculture, Forestry and Fishing"), ("100", "Agriculture, Forestry and Fishing"),
        ("0971", "Agriculture, Forestry and Fishing"), ("1000", "Mining"), ("1499", "Mining"),
        ("1531", "Construction"), ("2000", "Manufacturing"), ("3571", "Manufacturing"), ("3999", "Manufacturing"),
        ("4011", "Transportation, Communications and Utilities"),
        ("4991", "Transportation, Communications and Utilities"), ("5000", "Wholesale Trade"),
        ("5200", "Retail Trade"), ("5990", "Retail Trade"), ("6021", "Finance, Insurance and Real Estate"),
        ("6799", "Finance, Insurance and Real Estate"), ("7372", "Services"), ("8900", "Services"),
        ("9100", "Public Administration"), (" 7372 ", "Services"),
    ],
)  # fmt: skip
def test_a_sic_codes_first_two_digits_say_the_division(code: str, sector: str) -> None:
    assert sector_of(code) == sector


@pytest.mark.parametrize("code", [None, "", "0", "0000", "1800", "6900", "9995", "12345", "x571", "-571", "٣٥٧١"])
def test_what_is_no_code_or_in_no_division_has_no_sector(code: str | None) -> None:
    assert sector_of(code) is None
