"""``faces``: rendered faces whose parameters are all known; needs no download."""

from ccvae_eval.data.sets.faces.dataset import Faces as Faces
