"""What spikes tell: statistics, comparison, calibration, pictures, pages."""
