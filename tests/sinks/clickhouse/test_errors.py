import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from driftline.schemas.errors import PermanentError, RetryableError
from driftline.sinks.clickhouse.errors import DATA_ERRORS, MISSING, Answered, classify, is_missing


@pytest.mark.parametrize("code", DATA_ERRORS)
def test_data_that_does_not_fit_never_will(code: int) -> None:
    assert isinstance(classify(DatabaseError("x", code=code)), PermanentError)


@pytest.mark.parametrize(
    "code",
    [
        60,  # UNKNOWN_TABLE: an operator restores it, and nothing is lost
        81,  # UNKNOWN_DATABASE
        62,  # SYNTAX_ERROR: ours, not the data's
        115,  # UNKNOWN_SETTING
        159,  # TIMEOUT_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        33,  # CANNOT_READ_ALL_DATA: a body cut off on its way
        497,  # ACCESS_DENIED
        516,  # AUTHENTICATION_FAILED
        999,  # KEEPER_EXCEPTION
        None,  # the network
    ],
)
def test_everything_else_is_tried_again(code: int | None) -> None:
    assert isinstance(classify(OperationalError("x", code=code)), RetryableError)


def test_the_reason_is_in_clickhouses_own_words() -> None:
    driver = DatabaseError(
        "Received ClickHouse exception, code: 27, server response: "
        "Code: 27. DB::Exception: Cannot parse (input)\n: here."
        " (CANNOT_PARSE_INPUT_ASSERTION_FAILED) (version 26.9.2.1) (for url http://db.internal:8123)",
        code=27,
    )
    assert str(classify(driver)) == (
        "Code: 27. DB::Exception: Cannot parse (input)\n: here."
        " (CANNOT_PARSE_INPUT_ASSERTION_FAILED) (version 26.9.2.1)"
    )


@pytest.mark.parametrize(("code", "missing"), [*dict.fromkeys(MISSING, True).items(), (36, False), (None, False)])
def test_what_is_not_there_is_told_from_other_arguments(code: int | None, missing: bool) -> None:
    assert is_missing(DatabaseError("x", code=code)) is missing


@pytest.mark.parametrize(
    ("code", "message", "advice"),
    [
        (243, "Cannot reserve 1.00 MiB, not enough space", "free space on the disks of ClickHouse"),
        (
            76,
            "Cannot open file x, errno: 28, strerror: No space left on device",
            "free space on the disks of ClickHouse",
        ),
        (
            395,
            "Value passed to 'throwIf' function is non-zero: while pushing to view mine.per_hour. (FUNCTION_THROW)",
            "mend or drop the materialized view mine.per_hour, which is none of Driftline's",
        ),
        (60, "Table t does not exist", "`driftline migrate --check` says which of ours are missing"),
    ],
)
def test_what_answered_says_what_helps(code: int, message: str, advice: str) -> None:
    known = classify(DatabaseError(f"Code: {code}. DB::Exception: {message}", code=code))
    assert isinstance(known, Answered)
    assert str(known).endswith(f": {advice}")


def test_what_did_not_answer_is_told_from_what_did() -> None:
    assert not isinstance(classify(OperationalError("timed out")), Answered)
