"""The live page of a run: the decoder itself in one HTML file, with a slider for every latent dimension."""

from ccvae_eval.report.live.render import LIVE, live_html, write_live

__all__ = ["LIVE", "live_html", "write_live"]
