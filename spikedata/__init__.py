"""Spike-camera data: video or camera file in, labelled spike data set out."""
