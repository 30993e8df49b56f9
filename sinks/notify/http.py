"""The one way out: a POST that is tried again for as long as trying again can help."""

import asyncio
import logging
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from pydantic import Field
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from driftline.schemas.clock import Clock, utc
from driftline.schemas.config import Config
from driftline.schemas.errors import PermanentError, RetryableError
from driftline.schemas.text import for_log

logger = logging.getLogger(__name__)

_RETRYABLE = {408, 425, 429}  # and every 5xx
_SHOWN = 300  # characters of a refusal that fit a log line


def no_connection(error: aiohttp.ClientConnectorError) -> str:
    """Where to and why, without what aiohttp says of TLS where there is none."""
    why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # below 0 it is DNS
    return f"no connection to {error.host}:{error.port} ({why})"


class HttpConfig(Config):
    timeout_s: float = Field(10.0, gt=0)  # a receiver that takes longer is not well
    first_wait_s: float = Field(1.0, gt=0)  # a dropped connection is back by then; doubles from there
    max_wait_s: float = Field(60.0, gt=0)  # a limit per minute has refilled by then
    give_up_after_s: float = Field(3600.0, gt=0)  # an alarm an hour late is history; only its own receiver waits


class HttpSender:
    """Posts for one receiver. `secrets` are kept out of everything it logs or raises."""

    def __init__(
        self, session: aiohttp.ClientSession, name: str, config: HttpConfig, clock: Clock, secrets: Sequence[str] = ()
    ) -> None:
        self._session = session
        self._name = name
        self._clock = clock
        self._secrets = [secret for secret in secrets if secret]
        self._timeout = aiohttp.ClientTimeout(total=config.timeout_s)
        self._backoff = wait_exponential(config.first_wait_s, config.max_wait_s) + wait_random(0, config.first_wait_s)
        self._give_up = stop_before_delay(config.give_up_after_s)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Returns when the receiver has answered 2xx. Raises RetryableError after the last try, or PermanentError."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RetryableError),
            wait=self._wait,
            stop=self._give_up,
            before_sleep=self._log_retry,
            sleep=asyncio.sleep,
            reraise=True,
        ):
            with attempt:
                await self._post_once(url, body, headers)

    async def _post_once(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                if 200 <= response.status < 300:
                    return
                answer = (await response.content.read(4 * _SHOWN)).decode(errors="replace")
                status, asked = response.status, response.headers.get("Retry-After")
                date = response.headers.get("Date")
        except aiohttp.InvalidURL:
            raise PermanentError(f"{self._name}: the configured URL is not valid") from None
        except TimeoutError:
            raise RetryableError(f"{self._name}: no answer within {self._timeout.total:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise RetryableError(self._redact(f"{self._name}: {no_connection(error)}")) from None
        except (aiohttp.ClientError, OSError) as error:
            # Without the cause: it may hold the URL, which is a secret of some receivers.
            raise RetryableError(self._redact(f"{self._name}: {type(error).__name__}: {error}")) from None
        reason = f"{self._name}: HTTP {status}: {' '.join(self._redact(answer).split())[:_SHOWN]}"
        if status in _RETRYABLE or status >= 500:
            raise RetryableError(reason, seconds(asked, date, self._clock))
        raise PermanentError(reason)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, RetryableError) else None
        return max(asked or 0.0, self._backoff(state))

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("%s; try %d, the next in %.1f s.", for_log(error), state.attempt_number, state.upcoming_sleep)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def seconds(retry_after: str | None, date: str | None, clock: Clock) -> float | None:
    """A Retry-After header, which is a number of seconds or a date (RFC 9110, 10.2.3); None where there is none. A date
    is by the receiver's own clock, which `date`, its Date header, tells: one wrong here must not make it hours."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", retry_after):
        return float(retry_after)
    moment, now = _moment(retry_after), None if date is None else _moment(date)
    return None if moment is None else max(0.0, (moment - (now or utc(clock.now()))).total_seconds())


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
