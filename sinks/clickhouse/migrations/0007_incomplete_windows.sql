ALTER TABLE left_out_raw
    COMMENT COLUMN `reason` 'too_late: after the allowed lateness; ahead_of_time: its time is far ahead of the clock; incomplete: of a window that began before the log, when the monitor began without a state';
