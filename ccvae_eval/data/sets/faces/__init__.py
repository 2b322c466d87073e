"""``faces``: drawn faces whose every parameter is known, the data set that needs no download."""

from ccvae_eval.data.sets.faces.dataset import Faces as Faces
