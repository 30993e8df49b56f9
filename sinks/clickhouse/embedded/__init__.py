"""ClickHouse for a laptop, demos and tests: the chDB engine (ClickHouse in a library) behind ClickHouse's HTTP
interface on 127.0.0.1, as a child process. Same SQL, same tables, data on disk; production runs ClickHouse itself.
"""

from driftline.sinks.clickhouse.embedded.process import EmbeddedServer, EmbeddedServerError

__all__ = ["EmbeddedServer", "EmbeddedServerError"]
