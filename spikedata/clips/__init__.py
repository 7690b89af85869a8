"""A set of clips on disk, in any format: one interface, one file or folder a format."""
