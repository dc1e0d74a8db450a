from benchmarks.reading import QUESTIONS, differences

OURS = {question: {"numbers": 10, "sum": 1_000.0, "wall": 1.0} for question in QUESTIONS}


def test_equal_answers_have_no_differences_however_long_they_took() -> None:
    assert differences(OURS, {question: facts | {"wall": 9.0} for question, facts in OURS.items()}) == []


def test_an_answer_with_other_numbers_is_named() -> None:
    other = OURS | {"many symbols": {"numbers": 9, "sum": 1_000.0 + 1e-5, "wall": 1.0}}
    assert differences(OURS, other) == [
        "many symbols: 9 and 10 (numbers)",
        "many symbols: 1,000.00001 and 1,000.0 (sum)",
    ]
