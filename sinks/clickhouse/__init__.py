"""ClickHouse: where every event and every result ends up, once."""
