"""Data sets and models with known answers: images of grey squares with a VAE that inverts them, and tables of codes.

An image is a 4 x 4 grid of squares; square k has brightness sigmoid(factor k). ``SquaresVAE`` encodes square k as
latent dimension k and decodes it back, so a change of one latent dimension changes one square only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.random_streams import normals, uniforms
from ccvae_eval.core.types import Bools, Codes, Floats, Gaussian, Ids, Images, Labels
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.model.interface import Batch, Label, LabelSchema, LatentLayout

GRID = 4
SPREAD = 0.5
"""Standard deviation of a label's factor within a class."""

SCHEMA = LabelSchema((Label("Glasses"), Label("Smile"), Label("Hair", "categorical", ("Black", "Blond", "Brown"))))
MEANS = {"Glasses": (-2.0, 2.0), "Smile": (-2.0, 2.0), "Hair": (-3.0, 0.0, 3.0)}
"""The mean of a label's factor in each class."""

STYLE = 4


def factor_columns(label: str) -> tuple[int, int]:
    """The two factors of a label: one shows its class, the other its variety within the class."""
    first = 2 * SCHEMA.index(label)
    return first, first + 1


FACTORS = 2 * len(SCHEMA) + STYLE


def rendered(factors: Tensor, size: int = 32) -> Images:
    """The image of each row of factors, shape (N, 3, size, size)."""
    squares = torch.zeros(len(factors), GRID * GRID)
    # in float64: the last bit of a float32 sigmoid depends on the position in the batch
    squares[:, : factors.shape[1]] = torch.sigmoid(factors.double()).float()
    side = size // GRID
    image = squares.reshape(-1, 1, GRID, GRID).repeat_interleave(side, 2).repeat_interleave(side, 3)
    return image.expand(-1, 3, -1, -1).contiguous()


class Squares:
    """Labelled images of squares, with regions, variety, counterfactuals and redraws.

    Args:
        count: number of images.
        size: image size in pixels.
        missing: proportion of missing labels.
        agreement: probability that Smile is set equal to Glasses (0 = independent labels).
        seed: seed of the data.
    """

    needs_no_path = True
    region_source = "squares"

    def __init__(
        self, count: int = 160, size: int = 32, missing: float = 0.0, agreement: float = 0.0, seed: int = 0
    ) -> None:
        self.count, self.size, self.seed = count, size, seed
        ids = np.arange(count)
        draw = uniforms(seed, "squares/labels", ids, 2 * len(SCHEMA) + 1)
        classes = np.stack([(draw[:, j] * SCHEMA.labels[j].cardinality).astype(int) for j in range(len(SCHEMA))], 1)
        classes[:, 1] = np.where(draw[:, -1] < agreement, classes[:, 0], classes[:, 1])
        self._classes = classes
        self._labels = np.where(draw[:, len(SCHEMA) : 2 * len(SCHEMA)] < missing, np.nan, classes).astype(np.float32)
        self._noise = normals(seed, "squares/factors", ids, FACTORS)

    @property
    def spec(self) -> str:
        return f"squares,count={self.count}"

    @property
    def schema(self) -> LabelSchema:
        return SCHEMA

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @property
    def digest(self) -> str:
        return f"{self.seed:08x}{self.count:08x}"

    def __len__(self) -> int:
        return self.count

    def factors(self, ids: Ids, classes: Mapping[str, NDArray[Any]] | None = None) -> Tensor:
        """Factors of the images, shape (N, FACTORS)."""
        values = self._noise[ids].clone()
        for label in SCHEMA:
            shown = (classes or {}).get(label.name, self._classes[ids, SCHEMA.index(label.name)]).astype(int)
            column = factor_columns(label.name)[0]
            values[:, column] = torch.tensor(MEANS[label.name])[shown] + SPREAD * values[:, column]
        return values

    def batch(self, ids: Ids) -> Batch:
        ids = np.asarray(ids)
        return Batch(rendered(self.factors(ids), self.size), torch.from_numpy(self._labels[ids]), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._labels[np.asarray(ids)]

    def split(self, name: str) -> Ids:
        third = self.count // 3
        first = {"train": 0, "judge": third, "test": 2 * third}[name]
        return np.arange(first, self.count if name == "test" else first + third)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Squares:
        del path
        return cls(**{key: int(value) for key, value in options.items()})

    def region(self, ids: Ids, label: str) -> Bools | None:
        """The two squares of a label."""
        mask = np.zeros((GRID * GRID,), bool)
        mask[list(factor_columns(label))] = True
        side = self.size // GRID
        full = mask.reshape(GRID, GRID).repeat(side, 0).repeat(side, 1)
        return np.broadcast_to(full, (len(ids), *full.shape)).copy()

    def variety_names(self, label: str) -> tuple[str, ...]:
        return (f"{label} shade",)

    def variety(self, ids: Ids, label: str) -> Floats:
        return self._noise[np.asarray(ids)][:, factor_columns(label)[1:]].double().numpy()

    def with_attribute(self, ids: Ids, label: str, value: NDArray[np.float32]) -> Images:
        return self.with_variety(ids, {label: value}, {})

    def redraw(self, ids: Ids, label: str, value: NDArray[np.float32], draw: int) -> Images:
        fresh = normals(self.seed, f"squares/redraw/{label}/{draw}", ids, 1).double().numpy()
        return self.with_variety(ids, {label: value}, {label: fresh})

    def with_variety(
        self, ids: Ids, values: Mapping[str, NDArray[np.float32]], variety: Mapping[str, Floats]
    ) -> Images:
        factors = self.factors(np.asarray(ids), values)
        for label, drawn in variety.items():
            factors[:, factor_columns(label)[1:]] = torch.from_numpy(drawn).float()
        return rendered(factors, self.size)


class SquaresVAE(torch.nn.Module):
    """Encodes each square's factor and decodes it back; predicts by Bayes' rule; has the exact p(z_c|y).

    Args:
        blocks: True if a characteristic also owns the latent dimension of its variety.
        scale: the posterior's standard deviation in every latent dimension.
        size: image size in pixels.
    """

    def __init__(self, blocks: bool = False, scale: float = 0.1, size: int = 32) -> None:
        super().__init__()
        self.scale, self.size = scale, size
        columns = {label.name: factor_columns(label.name)[: 2 if blocks else 1] for label in SCHEMA}
        self.layout = LatentLayout(FACTORS, columns)
        self.labels = SCHEMA

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        side = self.size // GRID
        middle = images[:, 0, side // 2 :: side, side // 2 :: side].flatten(1)[:, :FACTORS]
        loc = torch.logit(middle, eps=1e-6)
        return Gaussian(loc, torch.full_like(loc, self.scale))

    def decode(self, codes: Codes) -> Images:
        return rendered(codes, self.size)

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        del images
        return {
            name: torch.log_softmax(
                -0.5 * ((codes[:, factor_columns(name)[:1]] - torch.tensor(means)) / SPREAD).square(), 1
            )
            for name, means in MEANS.items()
        }

    def conditional_prior(self, labels: Labels) -> Gaussian:
        order = self.layout.characteristic_columns
        loc, scale = torch.zeros(len(labels), len(order)), torch.ones(len(labels), len(order))
        for label in SCHEMA:
            place = order.index(factor_columns(label.name)[0])
            y = labels[:, SCHEMA.index(label.name)]
            mean = torch.tensor(MEANS[label.name])[y.nan_to_num(0).long()]
            loc[:, place] = torch.where(y.isnan(), torch.nan, mean)
            scale[:, place] = SPREAD
        return Gaussian(loc, scale)


class SquaresJudge:
    """Classifies each label from its square by Bayes' rule."""

    def log_probabilities(self, images: Images) -> Mapping[str, Tensor]:
        model = SquaresVAE(size=images.shape[-1])
        predictions = model.predict(images, model.encode(images).loc)
        return {name: value for name, value in predictions.items() if isinstance(value, Tensor)}


GRADED = LabelSchema((Label("Glasses"), Label("Smile", "continuous")))
LEAST_SMILE, MOST_SMILE = 10.0, 50.0
"""Range of the continuous label, which is uniform."""
GRADE_SPREAD = 0.2
"""Standard deviation of the continuous label's factor around its mean."""


def _smile_factor(value: Tensor) -> Tensor:
    """The mean factor, from -2 to 2, of an image whose label Smile has this value."""
    return 4 * (value - LEAST_SMILE) / (MOST_SMILE - LEAST_SMILE) - 2


def _smile_value(factor: Tensor) -> Tensor:
    return LEAST_SMILE + (factor + 2) * (MOST_SMILE - LEAST_SMILE) / 4


class GradedSquares(Squares):
    """Squares whose label Smile is continuous, from 10 to 50; its square shows the value. There is no label Hair."""

    def __init__(self, count: int = 160, size: int = 32, missing: float = 0.0, seed: int = 0) -> None:
        super().__init__(count, size, seed=seed)
        draw = uniforms(seed, "squares/grades", np.arange(count), 2)
        self._grades = (LEAST_SMILE + (MOST_SMILE - LEAST_SMILE) * draw[:, 0]).astype(np.float32)
        self._labels = np.stack([self._classes[:, 0], np.where(draw[:, 1] < missing, np.nan, self._grades)], 1)
        self._labels = self._labels.astype(np.float32)

    @property
    def spec(self) -> str:
        return f"graded,count={self.count}"

    @property
    def schema(self) -> LabelSchema:
        return GRADED

    def factors(self, ids: Ids, classes: Mapping[str, NDArray[Any]] | None = None) -> Tensor:
        shown = dict(classes or {})
        grades = torch.from_numpy(np.asarray(shown.pop("Smile", self._grades[ids]), np.float32))
        values = super().factors(ids, shown)
        column = factor_columns("Smile")[0]
        values[:, column] = _smile_factor(grades) + GRADE_SPREAD * self._noise[ids][:, column]
        return values


class GradedSquaresVAE(SquaresVAE):
    """The same networks for graded squares: Smile is predicted as a Gaussian, and p(z_c|y) is linear in it."""

    def __init__(self, blocks: bool = False, scale: float = 0.1, size: int = 32) -> None:
        super().__init__(blocks, scale, size)
        self.layout = LatentLayout(FACTORS, {name: self.layout[name] for name in GRADED.names})
        self.labels = GRADED

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        value = _smile_value(codes[:, factor_columns("Smile")[:1]])
        spread = torch.full_like(value, GRADE_SPREAD * (MOST_SMILE - LEAST_SMILE) / 4)
        return {"Glasses": super().predict(images, codes)["Glasses"], "Smile": Gaussian(value, spread)}

    def conditional_prior(self, labels: Labels) -> Gaussian:
        order = self.layout.characteristic_columns
        loc, scale = torch.zeros(len(labels), len(order)), torch.ones(len(labels), len(order))
        glasses, smile = labels.T
        known = torch.tensor(MEANS["Glasses"])[glasses.nan_to_num(0).long()]
        for name, mean, spread in (
            ("Glasses", torch.where(glasses.isnan(), torch.nan, known), SPREAD),
            ("Smile", _smile_factor(smile), GRADE_SPREAD),
        ):
            place = order.index(factor_columns(name)[0])
            loc[:, place], scale[:, place] = mean, spread
        return Gaussian(loc, scale)


class GradedJudge:
    """Classifies Glasses and predicts the value of Smile, each from its square."""

    def log_probabilities(self, images: Images) -> Mapping[str, Tensor]:
        model = GradedSquaresVAE(size=images.shape[-1])
        predictions = model.predict(images, model.encode(images).loc)
        return {name: p if isinstance(p, Tensor) else p.loc for name, p in predictions.items()}


class PlainSquaresVAE(torch.nn.Module):
    """The same networks without characteristics, predictions or p(z_c|y): a plain VAE."""

    def __init__(self, scale: float = 0.1, size: int = 32) -> None:
        super().__init__()
        self.inner = SquaresVAE(scale=scale, size=size)
        self.layout = LatentLayout(FACTORS)
        self.labels = LabelSchema(())

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        return self.inner.encode(images, labels)

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(codes)


class Table:
    """Labels with blank images, to evaluate codes alone."""

    spec, digest, input_shape = "table", "0" * 8, (1, 2, 2)

    def __init__(self, schema: LabelSchema, labels: Tensor) -> None:
        self.schema, self.labels = schema, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, ids: Ids) -> Batch:
        return Batch(torch.zeros(len(ids), *self.input_shape), self.labels[ids], ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self.labels[ids].numpy()


class TableVAE:
    """A model whose ``encode`` and ``decode`` must not be called."""

    def __init__(self, schema: LabelSchema, layout: LatentLayout) -> None:
        self.labels, self.layout = schema, layout

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        raise NotImplementedError

    def decode(self, codes: Codes) -> Images:
        raise NotImplementedError


def table_subject(
    codes: Tensor, labels: Tensor, schema: LabelSchema, layout: LatentLayout, model: Any = None, **more: Any
) -> Subject:
    """A subject with exactly these codes (the posterior's scale is 0)."""
    posterior = Gaussian(codes.float(), torch.zeros(codes.shape))
    data: Any = more.pop("data", None) or Table(schema, labels.float())
    own = model or TableVAE(schema, layout)
    return Subject(own, data, schema, layout, np.arange(len(codes)), labels.float(), posterior, **more)
