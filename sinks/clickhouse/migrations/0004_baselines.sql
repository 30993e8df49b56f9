CREATE TABLE IF NOT EXISTS baselines_raw
(
    `id` String COMMENT 'A hash of the settings of the detector and of the units; baseline_id of evidence' CODEC(ZSTD(1)),
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `detector` LowCardinality(String) COMMENT 'The detector that it is for',
    `component` LowCardinality(String) COMMENT 'What of the app: the name of a score, prompt or response; empty where there is one only',
    `state` LowCardinality(String) COMMENT 'active, or refused: then note says why',
    `source` LowCardinality(String) COMMENT 'learned from the stream, or fitted by driftline baseline fit',
    `at` DateTime64(6, 'UTC') COMMENT 'When it came into force, or was refused' CODEC(Delta, ZSTD(1)),
    `revision` Int64 COMMENT 'Of copies with one key the highest is valid: the source offset up to which it was computed' CODEC(Delta, ZSTD(1)),
    `releases` Array(String) COMMENT 'Whose traffic it was made of',
    `models` Array(String) COMMENT 'The models of that traffic, as far as they are known',
    `prompt_versions` Array(String) COMMENT 'The prompt versions of that traffic, as far as they are known',
    `embed_model` LowCardinality(String) COMMENT 'The embedding model; empty where there is none',
    `judges` Array(String) COMMENT 'Judge model and rubric version of its scores, as far as they are known',
    `from_ts` DateTime64(6, 'UTC') COMMENT 'Beginning of the traffic' CODEC(Delta, ZSTD(1)),
    `to_ts` DateTime64(6, 'UTC') COMMENT 'End of the traffic' CODEC(Delta, ZSTD(1)),
    `fitted_at` DateTime64(6, 'UTC') COMMENT 'When it was made' CODEC(Delta, ZSTD(1)),
    `n` UInt64 COMMENT 'Units of evidence',
    `guarantee` LowCardinality(String) COMMENT 'stated, approximate or none',
    `summary` Map(LowCardinality(String), Float64) COMMENT 'Its numbers, in the unit of the stream',
    `config` String COMMENT 'A hash of the settings that it depends on' CODEC(ZSTD(1)),
    `payload` String COMMENT 'All of it, for detectors: MessagePack in base64' CODEC(ZSTD(3)),
    `note` String COMMENT 'Why it was refused',
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (app, detector, component, id)
COMMENT 'What detectors hold components of apps against: learned, or fitted by hand';

CREATE VIEW IF NOT EXISTS baselines AS
SELECT *
FROM baselines_raw FINAL
COMMENT 'What detectors hold components of apps against: learned, or fitted by hand';
