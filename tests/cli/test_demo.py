"""``demo``: what it may cost."""

from __future__ import annotations

from pathlib import Path

import ccvae_eval
from ccvae_eval.api import DEFAULT_METRICS, plan
from ccvae_eval.cli.demo import ASSET, DEMO_IMAGES, DEMO_OPTIONS

SHIPPED = Path(ccvae_eval.__file__).parent / "assets" / ASSET


def test_the_demonstration_decodes_at_most_20000_images_and_leaves_out_no_label() -> None:
    planned = plan(SHIPPED, None, DEFAULT_METRICS, sample=DEMO_IMAGES, options=DEMO_OPTIONS, device="cpu", train=False)
    assert planned.decode <= 20_000
    assert len(planned.subject.characteristics) == 9
    for name in planned.subject.characteristics:
        assert min(planned.subject.classes(name).bincount().tolist()) >= 20, name
