"""The pipeline of the operations' tests serves these as well."""

from tests.streams.operate.conftest import operate_server, operate_tables, pipeline

__all__ = ["operate_server", "operate_tables", "pipeline"]
