"""Reading images from files: decoding, folders and zips, regions of faces."""
