"""Sequential detectors with a stated false-alarm rate. Pure: no I/O, no clock, no logging, no randomness at update
time."""
