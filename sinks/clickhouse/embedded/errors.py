"""ClickHouse's errors: their codes, and the HTTP status that each is answered with."""

from enum import IntEnum


class Code(IntEnum):
    """Of the errors that are this server's own."""

    BAD_ARGUMENTS = 36
    NOT_IMPLEMENTED = 48
    SYNTAX_ERROR = 62
    UNKNOWN_COMPRESSION_METHOD = 89
    TIMEOUT_EXCEEDED = 159
    READONLY = 164
    TOO_MANY_SIMULTANEOUS_QUERIES = 202
    SOCKET_TIMEOUT = 209
    QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING = 216
    MEMORY_LIMIT_EXCEEDED = 241
    TOO_MANY_BYTES = 307
    SESSION_NOT_FOUND = 372
    SESSION_IS_LOCKED = 373
    INVALID_SESSION_TIMEOUT = 374
    AUTHENTICATION_FAILED = 516
    UNKNOWN_EXCEPTION = 1002


# ClickHouse's src/Server/HTTP/exceptionCodeToHTTPStatus.cpp; everything else is 500.
_STATUS = {
    **dict.fromkeys((6, 8, 15, 25, 26, 27, Code.BAD_ARGUMENTS, 37, 38, 41, 44, 53, Code.SYNTAX_ERROR, 72, 117), 400),
    **dict.fromkeys((123, 167, 168, 223, 321, 376, 427, 441, 675, 676), 400),
    **dict.fromkeys((Code.INVALID_SESSION_TIMEOUT, Code.QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404),
    **dict.fromkeys((76, 439), 503),
    Code.AUTHENTICATION_FAILED: 401,
    Code.NOT_IMPLEMENTED: 501,
    Code.TIMEOUT_EXCEEDED: 408,
    Code.SOCKET_TIMEOUT: 408,
    229: 413,
    Code.TOO_MANY_BYTES: 413,
    Code.UNKNOWN_COMPRESSION_METHOD: 415,
}


class EngineError(Exception):
    """ClickHouse's own error, with its code: a `Code` where this server refuses by itself."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __str__(self) -> str:
        name = f". ({self.code.name})" if isinstance(self.code, Code) else ""
        return super().__str__() + name

    @property
    def status(self) -> int:
        return _STATUS.get(self.code, 500)
