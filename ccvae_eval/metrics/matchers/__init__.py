"""Ways to find points of one image again in another: plugins of the group ``matchers``."""
