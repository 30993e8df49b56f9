-- The tables hold rows as they were written, copies among them, until ClickHouse merges the copies away. The views
-- without _raw show every row once, at any time: query these.

CREATE TABLE IF NOT EXISTS traces_raw
(
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `ts` DateTime64(6, 'UTC') COMMENT 'When the call completed' CODEC(Delta, ZSTD(1)),
    `trace_id` String COMMENT 'Names the call together with span_id' CODEC(ZSTD(1)),
    `span_id` String COMMENT 'Names the call together with trace_id' CODEC(ZSTD(1)),
    `parent_span_id` String COMMENT 'The span that made the call' CODEC(ZSTD(1)),
    `conversation_id` String COMMENT 'The session: the unit of evidence in every detector' CODEC(ZSTD(1)),
    `user_id` String COMMENT 'As the app sends it' CODEC(ZSTD(1)),
    `environment` LowCardinality(String) COMMENT 'Such as production',
    `release` LowCardinality(String) COMMENT 'What served the request: a version of the service, prompt or model',
    `canary_share` Nullable(Float64) COMMENT 'Probability with which this request was sent to the canary',
    `operation` LowCardinality(String) DEFAULT 'chat' COMMENT 'gen_ai.operation.name',
    `provider` LowCardinality(String) COMMENT 'gen_ai.provider.name',
    `request_model` LowCardinality(String) COMMENT 'The model that was asked for',
    `response_model` LowCardinality(String) COMMENT 'The model that answered',
    `prompt_name` LowCardinality(String) COMMENT 'The prompt template',
    `prompt_version` LowCardinality(String) COMMENT 'The version of the prompt template',
    `input_tokens` Nullable(UInt64) COMMENT 'Includes cached tokens',
    `output_tokens` Nullable(UInt64) COMMENT 'Includes reasoning tokens',
    `cache_read_input_tokens` Nullable(UInt64) COMMENT 'Of input_tokens, read from the cache',
    `cache_write_input_tokens` Nullable(UInt64) COMMENT 'Of input_tokens, written to the cache',
    `reasoning_output_tokens` Nullable(UInt64) COMMENT 'Of output_tokens, spent on reasoning',
    `latency_ms` Nullable(Float64) COMMENT 'Milliseconds from request to the end of the answer',
    `ttft_ms` Nullable(Float64) COMMENT 'Milliseconds to the first token',
    `cost_usd` Nullable(Float64) COMMENT 'US dollars; see cost_status',
    `cost_status` LowCardinality(String) COMMENT 'reported: by the app; priced: from tokens and list prices; unpriced: unknown model, or no token counts',
    `stream` Nullable(Bool) COMMENT 'Whether the answer was streamed',
    `status` LowCardinality(String) DEFAULT 'ok' COMMENT 'ok or error',
    `error_type` LowCardinality(String) COMMENT 'The class of the error',
    `finish_reasons` Array(LowCardinality(String)) COMMENT 'Why the model stopped',
    `input_text` String COMMENT 'The prompt' CODEC(ZSTD(3)),
    `output_text` String COMMENT 'The answer' CODEC(ZSTD(3)),
    `attributes` Map(LowCardinality(String), String) COMMENT 'What is specific to the app, as text' CODEC(ZSTD(3)),
    `revision` UInt64 COMMENT 'Of copies with one key the highest is valid: the Kafka offset of the record' CODEC(Delta, ZSTD(1)),
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_conversation conversation_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(ts)
ORDER BY (app, toStartOfMinute(ts), trace_id, span_id)
COMMENT 'One call of a model per row; the pair of trace_id and span_id names it';

CREATE TABLE IF NOT EXISTS scores_raw
(
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `ts` DateTime64(6, 'UTC') COMMENT 'When the scored call completed, or the feedback came' CODEC(Delta, ZSTD(1)),
    `id` String COMMENT 'Names the score' CODEC(ZSTD(1)),
    `trace_id` String COMMENT 'The scored trace' CODEC(ZSTD(1)),
    `name` LowCardinality(String) COMMENT 'What is scored',
    `value` Float64 COMMENT 'The score',
    `span_id` String COMMENT 'The scored span' CODEC(ZSTD(1)),
    `label` LowCardinality(String) COMMENT 'The score in words',
    `explanation` String COMMENT 'Why this score' CODEC(ZSTD(3)),
    `source` LowCardinality(String) DEFAULT 'judge' COMMENT 'judge, evaluator or user',
    `judge_model` LowCardinality(String) COMMENT 'The model that judged',
    `rubric_version` LowCardinality(String) COMMENT 'The rubric it judged by',
    `conversation_id` String COMMENT 'Of the scored trace' CODEC(ZSTD(1)),
    `user_id` String COMMENT 'Of the scored trace' CODEC(ZSTD(1)),
    `environment` LowCardinality(String) COMMENT 'Of the scored trace',
    `release` LowCardinality(String) COMMENT 'Of the scored trace',
    `canary_share` Nullable(Float64) COMMENT 'Of the scored trace',
    `model` LowCardinality(String) COMMENT 'Of the scored trace',
    `attributes` Map(LowCardinality(String), String) COMMENT 'What is specific to the app, as text' CODEC(ZSTD(3)),
    `revision` UInt64 COMMENT 'Of copies with one key the highest is valid: the Kafka offset of the record' CODEC(Delta, ZSTD(1)),
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(ts)
ORDER BY (app, toStartOfMinute(ts), id)
COMMENT 'A judge''s score, an evaluator''s result or a user''s feedback on a trace';

CREATE TABLE IF NOT EXISTS releases_raw
(
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `ts` DateTime64(6, 'UTC') COMMENT 'When it changed',
    `id` String COMMENT 'Names the change',
    `kind` LowCardinality(String) COMMENT 'deploy, canary_start, canary_step or canary_stop',
    `release` LowCardinality(String) COMMENT 'The new release',
    `stable` LowCardinality(String) COMMENT 'The release it is compared with',
    `deployment_id` String COMMENT 'Names one canary from start to stop',
    `share` Nullable(Float64) COMMENT 'Of traffic that goes to the canary from now on',
    `outcome` LowCardinality(String) COMMENT 'Of a canary_stop: promoted, rolled_back or aborted',
    `environment` LowCardinality(String) COMMENT 'Such as production',
    `description` String COMMENT 'In words',
    `attributes` Map(LowCardinality(String), String) COMMENT 'What is specific to the app, as text' CODEC(ZSTD(3)),
    `revision` UInt64 COMMENT 'Of copies with one key the highest is valid: the Kafka offset of the record' CODEC(Delta, ZSTD(1)),
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (app, id)
COMMENT 'A change of what serves an app: a deployment, or a step in the life of a canary';

CREATE TABLE IF NOT EXISTS windows_raw
(
    `id` String COMMENT 'Names the window' CODEC(ZSTD(1)),
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `release` LowCardinality(String) COMMENT 'The release',
    `model` LowCardinality(String) COMMENT 'The model',
    `start` DateTime64(6, 'UTC') COMMENT 'The window begins here, and ends size_s later' CODEC(Delta, ZSTD(1)),
    `size_s` UInt32 COMMENT 'Length in seconds',
    `revision` Int64 COMMENT 'Of copies with one key the highest is valid: the source offset up to which it was computed' CODEC(Delta, ZSTD(1)),
    `requests` UInt64 COMMENT 'Calls',
    `errors` UInt64 COMMENT 'Calls that failed',
    `errors_by_type` Map(LowCardinality(String), UInt64) COMMENT 'Calls that failed, by class of error',
    `latency_ms` Tuple(count UInt64, sum Float64, p50 Nullable(Float64), p95 Nullable(Float64), p99 Nullable(Float64)) COMMENT 'Latency in milliseconds, quantiles within 1 %; count 0: no call carried it',
    `ttft_ms` Tuple(count UInt64, sum Float64, p50 Nullable(Float64), p95 Nullable(Float64), p99 Nullable(Float64)) COMMENT 'Time to first token in milliseconds, quantiles within 1 %; count 0: no call carried it',
    `input_tokens` UInt64 COMMENT 'Sum, with cached tokens',
    `output_tokens` UInt64 COMMENT 'Sum, with reasoning tokens',
    `cache_read_input_tokens` UInt64 COMMENT 'Sum of tokens read from the cache',
    `cost_usd` Nullable(Float64) COMMENT 'Sum of what could be priced; NULL: nothing could',
    `unpriced` UInt64 COMMENT 'Calls without a cost: unknown model, or no token counts',
    `scores` Map(LowCardinality(String), Tuple(count UInt64, mean Float64)) COMMENT 'Scores by name',
    `late` UInt64 COMMENT 'Events that corrected the window after it had closed',
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(start)
ORDER BY (app, start, release, model, size_s, id)
COMMENT 'One tumbling event-time window of one app, release and model';

CREATE TABLE IF NOT EXISTS evidence_raw
(
    `id` String COMMENT 'Names the measurement' CODEC(ZSTD(1)),
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `release` LowCardinality(String) COMMENT 'The release',
    `detector` LowCardinality(String) COMMENT 'Such as error_rate, latency_p99, cost_p99, quality, embedding_drift',
    `component` LowCardinality(String) COMMENT 'What of the stream: a score''s name, prompt or response',
    `ts` DateTime64(6, 'UTC') COMMENT 'The moment' CODEC(Delta, ZSTD(1)),
    `revision` Int64 COMMENT 'Of copies with one key the highest is valid: the source offset up to which it was computed' CODEC(Delta, ZSTD(1)),
    `state` LowCardinality(String) COMMENT 'ok, alarm, recovering, insufficient_reference or stale',
    `log_e` Nullable(Float64) COMMENT 'Natural log of the e-process',
    `log_p` Nullable(Float64) COMMENT 'Natural log of the p-value',
    `threshold` Float64 COMMENT 'Alarm: log_e at or above, or log_p at or below',
    `value` Nullable(Float64) COMMENT 'The statistic now, in the unit of the stream',
    `baseline` Nullable(Float64) COMMENT 'The same of the reference',
    `effect` Nullable(Float64) COMMENT 'value relative to baseline: 0.1 is 10 % above',
    `effect_low` Nullable(Float64) COMMENT 'Lower end of the interval of the effect',
    `effect_high` Nullable(Float64) COMMENT 'Upper end of the interval of the effect',
    `n_events` UInt64 COMMENT 'Events behind it',
    `n_units` UInt64 COMMENT 'Units of evidence behind it',
    `n_not_scored` UInt64 COMMENT 'Events that carried no usable value',
    `guarantee` LowCardinality(String) COMMENT 'Of the rate of false alarms: stated, approximate or none',
    `baseline_id` LowCardinality(String) COMMENT 'The reference',
    `since` Nullable(DateTime64(6, 'UTC')) COMMENT 'When the change began, for alarms',
    `note` String COMMENT 'In words' CODEC(ZSTD(1)),
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(ts)
ORDER BY (app, detector, ts, release, component, id)
COMMENT 'What one detector knows of one stream at one moment';

CREATE TABLE IF NOT EXISTS alerts_raw
(
    `id` String COMMENT 'Names the episode: its transitions share it',
    `dedup_key` String COMMENT 'What pagers group by',
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `release` LowCardinality(String) COMMENT 'The release',
    `rule` LowCardinality(String) COMMENT 'The rule',
    `component` LowCardinality(String) COMMENT 'What of the stream: a score''s name, prompt or response',
    `state` LowCardinality(String) COMMENT 'firing or resolved',
    `severity` LowCardinality(String) COMMENT 'critical, error, warning or info',
    `episode` UInt64 COMMENT 'Number of the episode of this rule',
    `ts` DateTime64(6, 'UTC') COMMENT 'Of this transition',
    `since` DateTime64(6, 'UTC') COMMENT 'When the change began',
    `fired_at` DateTime64(6, 'UTC') COMMENT 'When the episode fired',
    `resolved_at` Nullable(DateTime64(6, 'UTC')) COMMENT 'When the episode was resolved',
    `revision` Int64 COMMENT 'Of copies with one key the highest is valid: the source offset up to which it was computed' CODEC(Delta, ZSTD(1)),
    `summary` String COMMENT 'One line: what moved and by how much',
    `description` String COMMENT 'More of it',
    `action` String COMMENT 'What to do',
    `value` Nullable(Float64) COMMENT 'The statistic, in the unit of the stream',
    `baseline` Nullable(Float64) COMMENT 'The same of the reference',
    `effect` Nullable(Float64) COMMENT 'value relative to baseline: 0.1 is 10 % above',
    `effect_low` Nullable(Float64) COMMENT 'Lower end of the interval of the effect',
    `effect_high` Nullable(Float64) COMMENT 'Upper end of the interval of the effect',
    `n_events` UInt64 COMMENT 'Events behind it',
    `false_alarms` String COMMENT 'How often such an alert is expected without a cause',
    `contributors` Array(String) COMMENT 'What moved most',
    `labels` Map(LowCardinality(String), String) COMMENT 'For routing',
    `evidence_id` String COMMENT 'The row of evidence behind it',
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (app, id, state)
COMMENT 'Transitions of alerts: one row for each time an episode of a rule fires or is resolved';

CREATE TABLE IF NOT EXISTS rollbacks_raw
(
    `id` String COMMENT 'Names the decision',
    `deployment_id` String COMMENT 'The canary''s deployment',
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `release` LowCardinality(String) COMMENT 'The canary to take out of traffic',
    `stable` LowCardinality(String) COMMENT 'The release to return to',
    `decided_at` DateTime64(6, 'UTC') COMMENT 'When',
    `revision` Int64 COMMENT 'Of copies with one key the highest is valid: the source offset up to which it was computed' CODEC(Delta, ZSTD(1)),
    `reason` String COMMENT 'In words',
    `log_e` Map(LowCardinality(String), Float64) COMMENT 'Natural log of the e-process for harm, by metric',
    `weights` Map(LowCardinality(String), Float64) COMMENT 'Weight of each metric in the decision',
    `log_e_total` Float64 COMMENT 'What is held against the threshold',
    `threshold` Float64 COMMENT 'Of log_e_total',
    `alpha` Float64 COMMENT 'The probability of rolling back a canary that is not worse',
    `counts` Map(LowCardinality(String), UInt64) COMMENT 'Calls behind it',
    `effects` Map(LowCardinality(String), Float64) COMMENT 'Canary minus stable, in the unit of the metric',
    `share` Float64 COMMENT 'Of traffic that went to the canary',
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (app, deployment_id, id)
COMMENT 'The verdict that a canary must go, one per deployment';

CREATE TABLE IF NOT EXISTS breakers_raw
(
    `id` String COMMENT 'Names the change',
    `app` LowCardinality(String) COMMENT 'The LLM application',
    `provider` LowCardinality(String) COMMENT 'The provider',
    `model` LowCardinality(String) COMMENT 'The model',
    `state` LowCardinality(String) COMMENT 'open, half_open or closed',
    `at` DateTime64(6, 'UTC') COMMENT 'When it changed',
    `revision` Int64 COMMENT 'Of copies with one key the highest is valid: the source offset up to which it was computed' CODEC(Delta, ZSTD(1)),
    `reason` String COMMENT 'In words',
    `probe_share` Float64 COMMENT 'Of traffic to send while half open',
    `requests` UInt64 COMMENT 'Calls behind it',
    `errors` UInt64 COMMENT 'Of these, calls that failed',
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (app, provider, model, id)
COMMENT 'State changes of the circuit breakers of providers';

CREATE TABLE IF NOT EXISTS dead_letters_raw
(
    `id` String COMMENT 'Names the dead letter: topic, partition, offset and index',
    `topic` LowCardinality(String) COMMENT 'Where it was',
    `partition` UInt32 COMMENT 'Where it was',
    `offset` UInt64 COMMENT 'Where it was',
    `index` Int32 COMMENT 'Within the array of the record; -1: the whole record',
    `reason` String COMMENT 'What is wrong with it, and what to do' CODEC(ZSTD(3)),
    `raw` String COMMENT 'Its bytes; in dead_letters_raw in base64' CODEC(ZSTD(3)),
    `key` Nullable(String) COMMENT 'The key of the record; in dead_letters_raw in base64',
    `revision` UInt64 COMMENT 'Of copies with one key the highest is valid: the Kafka offset of the record' CODEC(Delta, ZSTD(1)),
    `ingested_at` DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When ClickHouse took the row: retention counts from here' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (topic, partition, offset, index, id)
COMMENT 'Records, or elements of a record''s array, that could not be taken';

CREATE VIEW IF NOT EXISTS traces AS
SELECT *
FROM traces_raw FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'One call of a model per row; the pair of trace_id and span_id names it';

CREATE VIEW IF NOT EXISTS scores AS
SELECT *
FROM scores_raw FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'A judge''s score, an evaluator''s result or a user''s feedback on a trace';

CREATE VIEW IF NOT EXISTS releases AS
SELECT *
FROM releases_raw FINAL
COMMENT 'A change of what serves an app: a deployment, or a step in the life of a canary';

CREATE VIEW IF NOT EXISTS windows AS
SELECT *
FROM windows_raw FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'One tumbling event-time window of one app, release and model';

CREATE VIEW IF NOT EXISTS evidence AS
SELECT *
FROM evidence_raw FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'What one detector knows of one stream at one moment';

CREATE VIEW IF NOT EXISTS alerts AS
SELECT *
FROM alerts_raw FINAL
COMMENT 'Transitions of alerts: one row for each time an episode of a rule fires or is resolved';

CREATE VIEW IF NOT EXISTS rollbacks AS
SELECT *
FROM rollbacks_raw FINAL
COMMENT 'The verdict that a canary must go, one per deployment';

CREATE VIEW IF NOT EXISTS breakers AS
SELECT *
FROM breakers_raw FINAL
COMMENT 'State changes of the circuit breakers of providers';

CREATE VIEW IF NOT EXISTS dead_letters AS
SELECT * REPLACE (base64Decode(raw) AS raw, base64Decode(key) AS key)
FROM dead_letters_raw FINAL
COMMENT 'Records, or elements of a record''s array, that could not be taken (raw and key decoded)';
