"""Image files and their regions: folders and zips, decoding, boxes and masks."""
