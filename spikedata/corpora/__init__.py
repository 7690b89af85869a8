"""Folders of labelled video: UCF101, HMDB51, your own."""
