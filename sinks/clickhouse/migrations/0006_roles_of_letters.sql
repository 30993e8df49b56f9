ALTER TABLE dead_letters_raw
    ADD COLUMN IF NOT EXISTS `role` LowCardinality(String) COMMENT 'The role that goes on without it; empty: it could not be stored' AFTER `count`,
    ADD COLUMN IF NOT EXISTS `until` UInt64 COMMENT 'Of what retention deleted before the role had read it: the offset after the last; 0: a record' AFTER `role`;

CREATE OR REPLACE VIEW dead_letters AS
SELECT * REPLACE (base64Decode(raw) AS raw, base64Decode(key) AS key)
FROM dead_letters_raw FINAL
COMMENT 'Records, or elements of a record''s array, that could not be taken or not be absorbed (raw and key decoded)';
