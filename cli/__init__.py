"""The commands `spikedata`, `spklip-train` and `spklip-eval`."""
