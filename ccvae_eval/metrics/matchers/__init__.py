"""Keypoint matchers, which find points of one image in another: plugins of the group ``matchers``."""
