"""One evaluation of one subject: its plan, the pass over the images, and the record with its files."""
