"""What one test's settings keep secret is a plain word in the next."""

import pytest

from driftline.streams import redact


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_known", set())
