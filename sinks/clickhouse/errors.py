"""ClickHouse's errors as ours, by error code: what is not known to be the data's fault passes by itself, or is for an
operator to repair (a missing table, a wrong password, a full disk), and is tried again until it does.
"""

import re

from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from driftline.schemas.errors import PermanentError, RetryableError

# ClickHouse's src/Common/ErrorCodes.cpp. All say: these bytes do not fit these columns, and never will.
DATA_ERRORS = {
    6: "CANNOT_PARSE_TEXT",
    25: "CANNOT_PARSE_ESCAPE_SEQUENCE",
    26: "CANNOT_PARSE_QUOTED_STRING",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    53: "TYPE_MISMATCH",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    128: "TOO_LARGE_ARRAY_SIZE",
    130: "CANNOT_READ_ARRAY_FROM_TEXT",
    131: "TOO_LARGE_STRING_SIZE",
    190: "SIZES_OF_ARRAYS_DONT_MATCH",
    307: "TOO_MANY_BYTES",
    321: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    407: "DECIMAL_OVERFLOW",
    467: "CANNOT_PARSE_BOOL",
    469: "VIOLATED_CONSTRAINT",
    691: "UNKNOWN_ELEMENT_OF_ENUM",
}

MISSING = {
    10: "NOT_FOUND_COLUMN_IN_BLOCK",
    16: "NO_SUCH_COLUMN_IN_TABLE",
    47: "UNKNOWN_IDENTIFIER",
    60: "UNKNOWN_TABLE",
}

# What an operator does about the rest.
_ADVICE = {
    60: "`driftline migrate --check` says which of ours are missing",
    81: "run `driftline migrate`, which creates it",
    192: "see the user and password in clickhouse.dsn",
    193: "see the user and password in clickhouse.dsn",
    194: "see the user and password in clickhouse.dsn",
    516: "see the user and password in clickhouse.dsn",
    243: "free space on the disks of ClickHouse",
}
_FULL = re.compile(r"No space left on device")
_VIEW = re.compile(r"while pushing to view ([\w.`-]*\w`?)", re.IGNORECASE)

_MESSAGE = re.compile(r"(Code: \d+\. DB::Exception: .*?)(?: \(for url [^)]*\))?$", re.DOTALL)
_NO_CLICKHOUSE = re.compile(r"Unexpected response to server version|HTTP driver received HTTP status")
_SERVER = re.compile(r"\((https?://[^()]*)\)$")


class Answered(RetryableError):
    """ClickHouse is there, and could not do it; the message says why, and mostly what helps."""


def classify(error: Exception) -> RetryableError | PermanentError:
    """For whatever the driver raises: network errors and timeouts have no code and are retryable."""
    code = getattr(error, "code", None)
    message = _own_words(error)
    if advice := _advice(code, message):
        message = f"{message}: {advice}"
    if code in DATA_ERRORS:
        return PermanentError(message)
    return RetryableError(message) if code is None else Answered(message)


def _advice(code: int | None, message: str) -> str:
    if view := _VIEW.search(message):
        return f"mend or drop the materialized view {view[1]}, which is none of Driftline's"
    return _ADVICE[243] if _FULL.search(message) else _ADVICE.get(code or 0, "")


def is_missing(error: Exception) -> bool:
    """A table or a column that a statement names is not there."""
    return getattr(error, "code", None) in MISSING


def _own_words(error: Exception) -> str:
    """ClickHouse's message without the driver's wrapping, which names the server."""
    text = str(error) or type(error).__name__
    found = _MESSAGE.search(text) if isinstance(error, ClickHouseError) else None
    if found:
        return found[1].strip()
    server = _SERVER.search(text)
    if isinstance(error, OperationalError) and server:
        return (
            f"ClickHouse at {server[1]} does not answer ({_reason(error)}): see that it runs, and that clickhouse.dsn "
            "says where"
        )
    if _NO_CLICKHOUSE.match(text):
        return f"what answers at clickhouse.dsn is no ClickHouse, or a proxy before one: {text}"
    return text


def _reason(error: BaseException) -> str:
    """What the network said, beneath what the driver's layers make of it."""
    while (beneath := getattr(error, "reason", None) or error.__cause__) is not None and beneath is not error:
        if not isinstance(beneath, BaseException):
            break
        error = beneath
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.sub(r"^.*\[Errno -?\d+\] |^\w+\([^()]*\): ", "", str(error)) or type(error).__name__
