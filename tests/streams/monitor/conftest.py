import pytest

from driftline.schemas.topics import Topics
from tests.streams.monitor.log import TOPICS


@pytest.fixture
def topics() -> Topics:
    return TOPICS
