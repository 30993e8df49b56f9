"""Everything that leaves the pipeline: ClickHouse and notifications."""
