ALTER TABLE dead_letters_raw
    ADD COLUMN IF NOT EXISTS `count` UInt64 DEFAULT 1 COMMENT 'Elements that it stands for: one letter may hold very many of one record' AFTER `key`;

CREATE OR REPLACE VIEW dead_letters AS
SELECT * REPLACE (base64Decode(raw) AS raw, base64Decode(key) AS key)
FROM dead_letters_raw FINAL
COMMENT 'Records, or elements of a record''s array, that could not be taken (raw and key decoded)';
