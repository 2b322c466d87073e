"""Locality against scikit-learn, SciPy, closed forms of synthetic changes, and brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import Measurement, Value
from ccvae_eval.evaluation.interventions import Interpolate, Redraw, Traverse, donor_rows
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.locality.figures import figures as locality_figures
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.metrics.shared.image_change import (
    average_precision,
    changed_area,
    deviation_map,
    path_lengths,
    top_mean,
)
from ccvae_eval.model.interface import LatentLayout
from tests.support.fakes import FACTORS, GRID, SCHEMA, Squares, SquaresJudge, SquaresVAE, factor_columns

pytestmark = pytest.mark.oracle

COUNT = 96
SIZE = 16
AREA = 2 / GRID**2
"""Share of the image that a label's two squares cover."""


class SmearedVAE(SquaresVAE):
    """Draws a characteristic's dimension into its two squares with weight 1 - l, and everywhere with weight l."""

    def __init__(self, smear: float, scale: float = 0.1) -> None:
        super().__init__(scale=scale, size=SIZE)
        self.smear, self.shade = smear, torch.sigmoid

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        side = SIZE // GRID
        picture = torch.zeros(len(codes), GRID * GRID)
        for label in SCHEMA:
            columns = factor_columns(label.name)
            mass = torch.full((GRID * GRID,), self.smear * AREA)
            mass[list(columns)] += 1 - self.smear
            picture += self.shade(codes[:, columns[0], None]) * mass / 3
        grid = picture.reshape(-1, 1, GRID, GRID).repeat_interleave(side, 2).repeat_interleave(side, 3)
        return grid.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


class EntangledVAE(SquaresVAE):
    """The dimension of Glasses sets Smile's square too."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        entangled = codes.clone()
        entangled[:, factor_columns("Smile")[0]] = codes[:, factor_columns("Glasses")[0]]
        return super().decode(entangled)


class InsensitiveVAE(SquaresVAE):
    """Ignores the dimension of Hair, whose squares never change."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        constant = codes.clone()
        constant[:, factor_columns("Hair")[0]] = 0.5
        return super().decode(constant)


class TwinsVAE(SquaresVAE):
    """p(z_c|y) of some classes of Hair is that of the class before the first of them."""

    def __init__(self, first: int) -> None:
        super().__init__(size=SIZE)
        self.first = first

    def conditional_prior(self, labels: torch.Tensor) -> Any:
        alike = labels.clone()
        column = SCHEMA.index("Hair")
        alike[:, column] = labels[:, column].clamp(max=self.first - 1)
        return super().conditional_prior(alike)


class WithoutRegions(Squares):
    """The same images without regions."""

    def region(self, ids: Any, label: str) -> None:
        del ids, label


def subject_of(model: torch.nn.Module, judge: Any = None, data: Squares | None = None, count: int = COUNT) -> Subject:
    images = data or Squares(count, size=SIZE)
    return prepare(model, images, np.arange(count), judge=judge)  # type: ignore[arg-type]


def measured(subject: Subject, metric: Locality | None = None) -> Measurement:
    return measure(subject, [metric or Locality()]).measurements[0]


def row(measurement: Measurement, name: str, characteristic: str | None = None, **at: Any) -> Value:
    (found,) = [v for v in measurement.values if (v.name, v.characteristic, v.at) == (name, characteristic, at)]
    return found


def number(measurement: Measurement, name: str, characteristic: str | None = None, **at: Any) -> float:
    return row(measurement, name, characteristic, **at).estimate.value


@pytest.fixture(scope="module")
def local() -> Measurement:
    return measured(subject_of(SquaresVAE(size=SIZE), SquaresJudge()))


# --- the pixel functions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_deviation_map_matches_numpys_population_deviation(channels: int, layout: torch.memory_format) -> None:
    points = torch.rand(11, 4, channels, 8, 6, generator=torch.Generator().manual_seed(0))
    found = deviation_map([x.to(memory_format=layout) for x in points])
    expected = points.double().numpy().std(0).mean(1).reshape(4, -1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("norm", "name"), [(0, "cityblock"), (1, "euclidean")])
def test_path_lengths_match_scipys_distances(norm: int, name: Any) -> None:
    points = torch.rand(5, 11, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = path_lengths(list(points))[norm]
    for image in range(11):
        every = cdist(*[points[:, image].double().flatten(1).numpy()] * 2, metric=name)
        expected = [*(every[k, k + 1] for k in range(4)), every[0, 4]]
        np.testing.assert_allclose(found[image], expected, rtol=1e-5)


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_average_precision_matches_scikit_learn(levels: int) -> None:
    draw = np.random.default_rng(levels)
    change = (draw.integers(0, levels, (20, 300)) / levels).astype(np.float32)
    region = draw.random((20, 300)) < np.linspace(0.02, 0.9, 20)[:, None]
    expected = [average_precision_score(a, d) for a, d in zip(region, change, strict=True)]
    np.testing.assert_allclose(average_precision(change, region), expected, rtol=1e-12)


def test_changed_area_of_a_uniform_change_is_its_share_of_the_pixels() -> None:
    change = np.zeros((3, 64))
    for image, size in enumerate((1, 16, 64)):
        change[image, :size] = 0.3
    np.testing.assert_allclose(changed_area(change), [1 / 64, 16 / 64, 1])


def test_top_mean_is_the_mean_of_the_largest_sorted_pixels() -> None:
    change = np.random.default_rng(3).random((6, 500)).astype(np.float32)
    np.testing.assert_allclose(top_mean(torch.from_numpy(change), 0.013), np.sort(change, 1)[:, -7:].mean(1), rtol=1e-6)


# --- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smear", [0.0, 0.25, 0.6, 1.0])
def test_a_smeared_change_has_the_closed_form(smear: float) -> None:
    found = measured(subject_of(SmearedVAE(smear)))
    inside, outside = (1 - smear) / AREA + smear, smear  # change per pixel, in units of the mean change
    energy = AREA * inside**2 / (AREA * inside**2 + (1 - AREA) * outside**2)
    area = 1 / (AREA * inside**2 + (1 - AREA) * outside**2)
    assert number(found, "focus") == pytest.approx(1 - smear, abs=1e-5)
    assert number(found, "inside") == pytest.approx(1 - smear + smear * AREA, abs=1e-5)
    assert number(found, "inside_energy") == pytest.approx(energy, abs=1e-5)
    assert number(found, "concentration") == pytest.approx(1 - area, abs=1e-5)
    assert number(found, "ap") == pytest.approx(1.0 if smear < 1 else AREA, abs=0.2 if smear == 1 else 1e-9)
    assert number(found, "area") == AREA
    assert row(found, "inside", "Hair").chance == pytest.approx(AREA)
    assert row(found, "concentration", "Hair").reference == pytest.approx(1 - AREA)


def test_a_local_model_scores_perfect_locality(local: Measurement) -> None:
    for name in ("focus", "inside", "inside_energy", "changed", "straightness"):
        assert number(local, name) == pytest.approx(1, abs=1e-6)
    assert number(local, "concentration") == pytest.approx(1 - 1 / GRID**2, abs=1e-6)
    assert number(local, "ap") == pytest.approx((1 + AREA) / 2)  # one of the region's two squares never changes
    assert number(local, "monotone") == pytest.approx(1, abs=1e-5)


def test_a_local_model_scores_perfect_selectivity(local: Measurement) -> None:
    assert number(local, "selectivity") == pytest.approx(1, abs=1e-6)
    assert row(local, "selectivity", "Glasses").chance == pytest.approx(1 / 3)
    assert number(local, "response", "Glasses", judged="Smile") == 0
    assert number(local, "response", "Glasses", judged="Glasses") == pytest.approx(1, abs=1e-3)


def test_half_of_an_entangled_models_response_belongs_to_another_label() -> None:
    found = measured(subject_of(EntangledVAE(size=SIZE), SquaresJudge(), Squares(COUNT, size=SIZE, agreement=1.0)))
    assert number(found, "selectivity", "Glasses") == pytest.approx(0.5, abs=1e-3)
    assert number(found, "focus", "Glasses") == pytest.approx((0.5 - AREA) / (1 - AREA), abs=1e-5)


def test_judged_path_scores_follow_bayes_rule(local: Measurement) -> None:
    subject = subject_of(SquaresVAE(size=SIZE))
    chunk = next(subject.chunks())
    probabilities = []
    for k in range(11):
        judgement = subject.model.predict(chunk.images, Traverse("Smile", k / 10).codes(subject, chunk))  # type: ignore[attr-defined]
        probabilities.append(float(judgement["Smile"][0, 1].exp()))
    steps = np.abs(np.diff(probabilities))
    assert number(local, "judged_evenness", "Smile") == pytest.approx(steps.mean() / steps.max(), abs=1e-4)
    assert number(local, "judged_monotone", "Smile") == pytest.approx(1, abs=1e-6)


def test_an_unchanged_characteristic_is_undefined_and_counted_as_excluded() -> None:
    found = measured(subject_of(InsensitiveVAE(size=SIZE), SquaresJudge()))
    assert number(found, "changed", "Hair") == 0
    assert number(found, "magnitude", "Hair") == 0
    for name in ("focus", "inside", "ap", "concentration", "monotone"):
        assert np.isnan(number(found, name, "Hair"))
        assert row(found, name, "Hair").note == "nothing changed in any image"
        assert row(found, name, "Hair").excluded == COUNT
        assert row(found, name).excluded == 1
    assert number(found, "focus") == pytest.approx(1, abs=1e-6)


def test_focus_matches_brute_force() -> None:
    model = SmearedVAE(0.3, scale=0.5)
    model.shade = lambda z: (1 + torch.sin(3 * z)) / 2  # the ends of a path may look alike
    subject = subject_of(model, data=Squares(160, size=SIZE, missing=0.2), count=160)
    found = measured(subject)
    for name in ("Glasses", "Hair"):
        region = subject.data.region(subject.ids[:1], name)[0]  # type: ignore[attr-defined]
        focus, unchanged = [], 0
        for chunk in subject.chunks():
            path = [subject.decode(Traverse(name, k / 10).codes(subject, chunk)).double().numpy() for k in range(11)]
            noise = [subject.decode(Redraw(name, k).codes(subject, chunk)).double().numpy() for k in (0, 1)]
            change = np.std(path, axis=0).mean(1)
            size, floor = (np.abs(b - a).mean(1).reshape(len(a), -1) for a, b in ((path[0], path[-1]), noise))
            top = [np.sort(x, 1)[:, -3:].mean(1) for x in (size, floor)]  # 1 % of 256 pixels
            inside = (change * region).sum((1, 2)) / np.maximum(change.sum((1, 2)), 1e-30)
            applies = (subject.target_class(name)[chunk.rows] >= 0).numpy() | (name == "Glasses")
            used = applies & (top[0] > top[1])
            unchanged += int((applies & ~used).sum())
            focus += list(((inside - AREA) / (1 - AREA))[used])
        assert number(found, "focus", name) == pytest.approx(np.mean(focus), abs=1e-6)
        assert row(found, "focus", name).estimate.n == len(focus)
        assert 0 < unchanged < 150
        share = len(focus) / (len(focus) + unchanged)
        assert number(found, "changed", name) == pytest.approx(share)


def test_path_share_counts_codes_between_the_class_quantiles() -> None:
    subject = subject_of(SquaresVAE(size=SIZE))
    found = measured(subject)
    codes = subject.codes[:, factor_columns("Smile")[0]].double().numpy()
    classes = subject.classes("Smile").numpy()
    low, high = np.quantile(codes[classes == 0], 0.05), np.quantile(codes[classes == 1], 0.95)
    assert number(found, "path_share", "Smile") == pytest.approx(((codes >= low) & (codes <= high)).mean())


# --- settings --------------------------------------------------------------------------------------------------------


def test_an_encoder_without_noise_needs_no_posterior_samples() -> None:
    subject = subject_of(SquaresVAE(scale=0.0, size=SIZE))
    wanted = Locality().needs(subject).interventions
    assert len(wanted) == 11 * 3
    assert not any(isinstance(i, Redraw) for i in wanted)
    found = measured(subject)
    assert number(found, "floor") == pytest.approx(1 / 255)
    assert number(found, "changed") == 1


def test_each_latent_dimension_is_traversed_alone() -> None:
    found = measured(subject_of(SquaresVAE(blocks=True, size=SIZE)), Locality(columns="each"))
    first, second = factor_columns("Glasses")
    columns = [number(found, "magnitude", "Glasses", column=c) for c in (first, second)]
    assert columns[0] > 5 * columns[1]  # only the first dimension encodes the class
    assert number(found, "magnitude", "Glasses") == pytest.approx(np.mean(columns))
    assert number(found, "concentration", "Glasses", column=first) == pytest.approx(1 - 1 / GRID**2, abs=1e-6)


def test_interpolation_ends_at_an_image_of_the_target_class() -> None:
    subject = subject_of(SquaresVAE(size=SIZE))
    chunk = next(subject.chunks())
    donors = donor_rows(subject, "Hair")
    assert torch.equal(subject.current_class("Hair")[donors], subject.target_class("Hair"))
    assert torch.equal(Interpolate("Hair", 0.0).codes(subject, chunk), chunk.codes)
    end = Interpolate("Hair", 1.0).codes(subject, chunk)
    torch.testing.assert_close(end, subject.codes[donors[chunk.rows]])


def test_interpolation_changes_all_characteristics() -> None:
    found = measured(subject_of(SquaresVAE(size=SIZE)), Locality(path="interpolation"))
    assert number(found, "focus") < 0.6
    assert np.isnan(number(found, "path_share"))
    assert 0.5 < number(found, "straightness") <= 1


def test_path_ends_from_the_prior_are_its_quantiles() -> None:
    subject = subject_of(SquaresVAE(size=SIZE))
    found = measured(subject, Locality(source="prior"))
    ends = torch.sigmoid(torch.tensor([-2 - 1.6448536 * 0.5, 2 + 1.6448536 * 0.5]))
    assert number(found, "magnitude", "Glasses") == pytest.approx(float(ends[1] - ends[0]), abs=1e-5)


# --- what is missing -------------------------------------------------------------------------------------------------


def test_without_regions_the_headline_is_undefined_with_a_reason() -> None:
    found = measured(subject_of(SquaresVAE(size=SIZE), SquaresJudge(), WithoutRegions(COUNT, size=SIZE)))
    assert found.status == "ok"
    for name in ("focus", "inside", "ap", "inside_energy", "area"):
        assert np.isnan(number(found, name))
        assert "has no region" in row(found, name).note
        assert row(found, name, "Smile").note == "has no region"
    for name in ("concentration", "changed", "magnitude", "selectivity", "monotone", "evenness", "judged_monotone"):
        assert not np.isnan(number(found, name))
    assert row(found, "concentration", "Smile").reference is None


def test_without_a_judge_judged_values_are_undefined_and_no_reconstruction_is_decoded() -> None:
    subject = subject_of(SquaresVAE(size=SIZE))
    assert not Locality().needs(subject).reconstruction
    found = measured(subject)
    for name in ("selectivity", "response", "judged_monotone", "judged_evenness"):
        assert "needs a judge" in row(found, name).note


def test_a_label_that_the_judge_does_not_recognise_has_no_judged_values() -> None:
    found = measured(subject_of(InsensitiveVAE(size=SIZE), SquaresJudge()))
    assert "reconstructions only 0.33" in row(found, "selectivity", "Hair").note
    assert any("Hair" in note for note in found.notes)
    assert row(found, "selectivity", "Glasses").chance == 1 / 2


def test_only_the_images_of_two_classes_that_are_not_separated_have_no_path() -> None:
    subject = subject_of(TwinsVAE(first=2))
    chunk = next(subject.chunks())
    now, then = (f("Hair")[chunk.rows] for f in (subject.current_class, subject.target_class))
    twins = (now >= 1) & (then >= 1)
    codes = Traverse("Hair", 1.0, "prior").codes(subject, chunk)
    assert torch.equal((codes != chunk.codes).any(1), ~twins)
    found = measured(subject, Locality(source="prior"))
    lost = int(((subject.current_class("Hair") >= 1) & (subject.target_class("Hair") >= 1)).sum())
    pairs = "mean codes less than 0.1 standard deviations apart: Blond > Brown, Brown > Blond"
    assert f"Hair: {lost} images have no path ({pairs})" in found.notes
    assert row(found, "focus", "Hair").estimate.n == COUNT - lost
    whole = measured(subject_of(SquaresVAE(size=SIZE)), Locality(source="prior"))
    assert not [note for note in whole.notes if "no path" in note]
    assert row(whole, "focus", "Hair").estimate.n == COUNT


def test_a_label_none_of_whose_classes_are_separated_is_undefined() -> None:
    found = measured(subject_of(TwinsVAE(first=1)), Locality(source="prior"))
    assert row(found, "focus", "Hair").note.startswith("classes not separated")
    assert not np.isnan(number(found, "focus", "Smile"))


def test_a_region_above_the_largest_size_is_excluded() -> None:
    found = measured(subject_of(SquaresVAE(size=SIZE)), Locality(largest_region=0.1))
    assert np.isnan(number(found, "focus"))
    assert "too large" in row(found, "focus", "Hair").note


def test_characteristics_with_too_small_classes_are_not_decoded() -> None:
    subject = subject_of(SquaresVAE(size=SIZE), count=50)
    assert {i.characteristic for i in Locality().needs(subject).interventions} == {"Glasses", "Smile"}
    found = measured(subject)
    assert "images of class" in row(found, "focus", "Hair").note
    assert not np.isnan(number(found, "focus"))


def test_a_model_without_characteristics_is_undefined() -> None:
    subject = replace(subject_of(SquaresVAE(size=SIZE)), layout=LatentLayout(FACTORS))
    assert measured(subject).status == "undefined"


# --- laws ------------------------------------------------------------------------------------------------------------


def test_numbers_do_not_depend_on_batch_size_or_threads() -> None:
    whole = measured(subject_of(SmearedVAE(0.3), SquaresJudge()))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = measured(replace(subject_of(SmearedVAE(0.3), SquaresJudge()), batch_size=32))
    torch.set_num_threads(threads)
    for name, column in whole.evidence.items():
        np.testing.assert_array_equal(column, again.evidence[name])
    one, other = ([(v.key, v.estimate.value, v.estimate.low) for v in m.values] for m in (whole, again))
    np.testing.assert_equal(one, other)


def test_pictures_contain_strips_mean_images_regions_and_change_maps(local: Measurement) -> None:
    strip, mean = local.pictures["strip/Glasses"], local.pictures["mean/image"]
    assert (strip.shape, strip.dtype) == ((8, 11, SIZE, SIZE, 3), np.uint8)
    assert (mean.shape, mean.dtype) == ((SIZE, SIZE, 3), np.float32)
    data = Squares(COUNT, size=SIZE)
    expected = data.batch(np.arange(COUNT)).images.mean(0).permute(1, 2, 0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    region, change = local.pictures["mean/region/Glasses"], local.pictures["mean/change/Glasses"]
    assert region.mean() == AREA
    assert (change[region == 0] == 0).all()
    assert change.max() > 0.1


def test_change_maps_say_that_faint_changes_count(local: Measurement) -> None:
    """A map that looks black outside the region can have a low focus."""
    (title,) = dict(locality_figures(local))["change-maps",].texts
    assert "Faint changes of many pixels" in title.get_text()


def test_pairs_all_adds_a_strip_for_each_pair_of_classes(local: Measurement) -> None:
    subject = subject_of(SquaresVAE(size=SIZE))
    found = measured(subject, Locality(pairs="all"))
    assert not [key for key in local.pictures if key.startswith("pairs/")]
    strips = {key: strip for key, strip in found.pictures.items() if key.startswith("pairs/")}
    names = ("Black", "Blond", "Brown")
    assert list(strips) == [f"pairs/Hair/{a} > {b}" for a in names for b in names if a != b]
    both = ([v.estimate.value for v in run.values] for run in (found, measured(subject, Locality())))
    assert next(both) == pytest.approx(next(both), abs=0, nan_ok=True)
    strip = strips["pairs/Hair/Black > Brown"]
    assert strip.shape == (1, 11, SIZE, SIZE, 3)
    # one square shows Hair's first factor: it grows lighter from the first class to the last, all others stay
    place = factor_columns("Hair")[0]
    side = SIZE // GRID
    square = (
        slice(place // GRID * side, (place // GRID + 1) * side),
        slice(place % GRID * side, (place % GRID + 1) * side),
    )
    probabilities = strip[0][:, square[0], square[1]].astype(float).mean((1, 2, 3))
    assert (np.diff(probabilities) > 0).all()
    still = strip[0].astype(int).copy()
    still[:, square[0], square[1]] = 0
    assert np.ptp(still, axis=0).max() == 0
    sheets = dict(locality_figures(found))
    labels = [text.get_text() for text in sheets["pairs", "Hair"].axes[0].get_yticklabels()]
    assert labels == [f"{a} > {b}" for a in names for b in names if a != b]
    with pytest.raises(UsageError, match="pairs"):
        Locality(pairs="some")  # type: ignore[arg-type]
