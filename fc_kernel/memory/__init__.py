"""A guest's memory in files: its pages and their digests."""
