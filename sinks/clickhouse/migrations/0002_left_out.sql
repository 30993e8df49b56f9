CREATE TABLE IF NOT EXISTS left_out_raw
(
    `id` String COMMENT 'Names the entry' CODEC(ZSTD(1)),
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `kind` LowCardinality(String) COMMENT 'trace or score',
    `reason` LowCardinality(String) COMMENT 'too_late: after the allowed lateness; ahead_of_time: its time is far ahead of the clock',
    `start` DateTime64(6, 'UTC') COMMENT 'Of the window they belong to' CODEC(Delta, ZSTD(1)),
    `size_s` UInt32 COMMENT 'Length of that window in seconds',
    `tick` DateTime64(6, 'UTC') COMMENT 'The tick that found them' CODEC(Delta, ZSTD(1)),
    `revision` Int64 COMMENT 'Of copies with one key the highest is valid: the source offset up to which it was computed' CODEC(Delta, ZSTD(1)),
    `events` UInt64 COMMENT 'Events, each counted once',
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(start)
ORDER BY (app, start, kind, reason, id)
COMMENT 'Events that are stored and counted in no window';

CREATE VIEW IF NOT EXISTS left_out AS
SELECT *
FROM left_out_raw FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Events that are stored and counted in no window';
