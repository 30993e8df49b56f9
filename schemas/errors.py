"""Two families of failure, so that callers decide by type and not by text.

DriftlineError
├── ConfigError       stop at start; the message names the key
├── RetryableError    passes by itself: try again, the same input may work (the default for what is not known)
└── PermanentError    the same input fails for ever: dead-letter it, or stop
"""


class DriftlineError(Exception):
    pass


class ConfigError(DriftlineError):
    pass


class RetryableError(DriftlineError):
    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PermanentError(DriftlineError):
    pass
