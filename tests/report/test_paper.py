"""Tables and texts for papers: numbers, bold entries, and names that stay inert in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import ccvae_eval
from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.results import COUNT, ValueSpec
from ccvae_eval.evaluation.result_table import Mean
from ccvae_eval.evaluation.run import Run
from ccvae_eval.report.paper import as_csv, latex, latex_text, markdown, methods, model_index, paper_table
from tests.support.comparisons import HOSTILE, model, run_of

LATEX_COMMANDS = {
    "usepackage", "begin", "end", "toprule", "midrule", "bottomrule", "textbf", "scriptsize", "uparrow", "downarrow",
    "textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "infty",
    "par", "smallskip", "footnotesize",
}  # fmt: skip


def runs() -> dict[str, list[Run]]:
    return {"ours": [model(1, 1.0)], "csvae": [model(2, path="b.pt")]}


def hostile(shift: float = 0.0) -> Run:
    rng = np.random.default_rng(0)
    focus = {name: Mean(0.3 + shift + 0.1 * rng.standard_normal(20)) for name in HOSTILE}
    return run_of({"locality": ("focus", focus)}, path=HOSTILE[1])


def test_a_row_for_each_model_has_its_own_numbers() -> None:
    models = runs()
    table = paper_table(models, ["locality.focus", "drift.spill@Smile"], best=lambda _: "ours")
    assert [head for head, _ in table.columns] == ["locality.focus", "drift.spill@Smile"]
    assert [arrow for _, arrow in table.columns] == ["↑", "↓"]
    for name, entries in table.rows:
        run = models[name][0]
        assert [e.estimate for e in entries] == [
            run.find("locality.focus").estimate,
            run.find("drift.spill@Smile").estimate,
        ]
        assert [e.best for e in entries] == [name == "ours"] * 2


def test_several_runs_of_a_model_give_the_mean_and_interval_over_seeds() -> None:
    seeds = [model(k, path=f"{k}.pt") for k in range(4)]
    ((_, (entry,)),) = paper_table({"ours": seeds}, ["locality.focus"]).rows
    values = [run["locality.focus"] for run in seeds]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (entry.estimate.value, entry.estimate.low, entry.estimate.high) == pytest.approx(
        (np.mean(values), low, high)
    )
    assert entry.estimate.n == 4


def test_means_include_only_characteristics_that_every_model_has() -> None:
    rng = np.random.default_rng(0)
    x, y = Mean(rng.random(20)), Mean(rng.random(20) + 5)
    table = paper_table({
        "a": [run_of({"m": ("v", {"x": x, "y": y})})], "b": [run_of({"m": ("v", {"x": x, "y": "no region"})})],
    })  # fmt: skip
    (_, (a,)), (_, (b,)) = table.rows
    assert a.estimate.value == b.estimate.value < 1
    assert np.isnan(a.estimate.low)


def test_means_of_runs_that_are_not_comparable_are_those_of_each_run() -> None:
    rng = np.random.default_rng(0)
    x, y = Mean(rng.random(20)), Mean(rng.random(20) + 5)
    models = {"a": [run_of({"m": ("v", {"x": x, "y": y})})], "b": [run_of({"m": ("v", {"x": x, "y": "no region"})})]}
    table = paper_table(models, comparable=False)
    for name, (entry,) in table.rows:
        assert entry.estimate == models[name][0].find("m.v").estimate
    own = "m.v: mean over 1 of 2 characteristics, without y"
    assert table.notes == ("value, 95% confidence interval over images", f"b, {own}")
    lacking = "undefined in some run); a run that defines them has no interval over images"
    assert paper_table(models).notes[1] == f"{own} ({lacking}"


def test_a_characteristic_that_is_undefined_in_every_run_is_named() -> None:
    """As by ``compare``: the mean is of the others, and keeps its interval."""
    runs = [run_of({"m": ("v", {"x": Mean(np.arange(20.0)), "y": "no region"})}) for _ in "ab"]
    table = paper_table({"a": runs[:1], "b": runs[1:]})
    assert table.notes[1] == "m.v: mean over 1 of 2 characteristics, without y"
    assert not np.isnan(table.rows[0][1][0].estimate.low)


def test_means_without_a_common_characteristic_are_named() -> None:
    models = {name: [run_of({"m": ("v", {name: Mean(np.arange(20.0))})})] for name in "ab"}
    assert "m.v: no characteristic is defined in every run; each mean is over" in paper_table(models).notes[1]


def test_latex_has_the_notes_below_the_table_and_heads_in_words() -> None:
    text = latex(paper_table(runs(), ["accuracy.balanced_accuracy@Smile"], notes=["a note"]))
    assert text.splitlines()[3] == " & accuracy: balanced accuracy, Smile $\\uparrow$ \\\\"
    assert "%" not in text.partition("\n")[2].replace("\\%", "")
    assert text.endswith("over images.\na note.\n\\par}\n")
    by_row = latex(paper_table(runs(), ["accuracy.balanced_accuracy"], by_characteristic=True))
    assert " & ours, accuracy: balanced accuracy $\\uparrow$ & csvae, accuracy" in by_row


def test_a_mean_keeps_its_interval_if_a_characteristic_is_undefined_in_every_model() -> None:
    rng = np.random.default_rng(0)
    models = {}
    for name in map(str, range(12)):
        focus = {c: Mean(rng.random(20)) for c in ("x", "y", "z", "u", "v", "w", "s")}
        models[name] = [run_of({"m": ("v", {**focus, "t": "too few images"})})]
    for name, (entry,) in paper_table(models).rows:
        assert entry.estimate == models[name][0].find("m.v").estimate


def test_a_mean_keeps_its_interval_if_only_another_model_has_more_characteristics() -> None:
    rng = np.random.default_rng(0)
    models = {}
    for name in map(str, range(12)):
        focus = {c: Mean(rng.random(20)) for c in ("x", "y", "z", "u", "v", "w", "s")}
        models[name] = [run_of({"m": ("v", {**focus, **({"t": Mean(rng.random(20))} if name == "0" else {})})})]
    (_, (more,)), *others = paper_table(models).rows
    assert np.isnan(more.estimate.low), "its own interval is that of another mean"
    for name, (entry,) in others:
        assert entry.estimate == models[name][0].find("m.v").estimate


def test_rows_of_characteristics_end_in_the_mean() -> None:
    table = paper_table(runs(), ["locality.focus", "density.auc"], by_characteristic=True)
    assert [name for name, _ in table.rows] == ["Smile", "Hat", "Tie", "mean"]
    assert [head for head, _ in table.columns] == [
        "ours: locality.focus", "csvae: locality.focus", "ours: density.auc", "csvae: density.auc"
    ]  # fmt: skip
    assert not table.rows[1][1][2].estimate.defined, "density has no value for Hat"


def test_the_row_of_a_count_is_its_total() -> None:
    counts = run_of({"measurement": ("distance", {c: Mean(np.arange(20.0)) for c in ("Smile", "Hat")})})
    counts = replace(counts, specs={**counts.specs, "measurement": {"distance": ValueSpec("violations", COUNT)}})
    table = paper_table({"ours": [counts]}, ["measurement.distance"], by_characteristic=True)
    assert [name for name, _ in table.rows] == ["Smile", "Hat", "total"]
    both = paper_table({"ours": [counts], "other": runs()["ours"]}, ["measurement.distance", "locality.focus"],
                       by_characteristic=True)  # fmt: skip
    assert both.rows[-1][0] == "mean or total"


def test_latex_is_a_booktabs_tabular() -> None:
    text = latex(paper_table(runs(), ["locality.focus"], best=lambda _: "ours"), digits=2)
    lines = text.splitlines()
    assert lines[1:3] == ["\\begin{tabular}{lr}", "\\toprule"]
    assert lines[3] == " & locality: focus $\\uparrow$ \\\\"
    assert re.fullmatch(r"ours & \\textbf\{0\.\d\d\} \{\\scriptsize \{\[\}0\.\d\d, 0\.\d\d\{\]\}\} \\\\", lines[5])
    assert re.fullmatch(r"csvae & 0\.\d\d \{\\scriptsize .*\} \\\\", lines[6])


def test_small_values_keep_their_significant_digits_and_undefined_ones_are_dashes() -> None:
    tiny = run_of({"m": ("v", {"x": Mean(np.full(20, 0.00123)), "y": "no"})})
    table = paper_table({"a": [tiny]}, ["m.v@x", "m.v@y", "m.absent"])
    assert "a & 0.0012 {\\scriptsize" in latex(table)
    assert latex(table).splitlines()[5].endswith("& -- & -- \\\\")
    assert "| 0.0012" in markdown(table)


def test_hostile_names_are_inert_in_latex() -> None:
    assert latex_text("\\input{}") == "\\textbackslash{}input\\{\\}"
    text = latex(paper_table({n: [hostile()] for n in HOSTILE}, [f"locality.focus@{n}" for n in HOSTILE]))
    by_row = latex(paper_table({HOSTILE[0]: [hostile()]}, by_characteristic=True, notes=HOSTILE))
    for document in (text, by_row):
        assert set(re.findall(r"\\([a-zA-Z]+)", document)) <= LATEX_COMMANDS
        bare = re.sub(r"\\[\\{}$&#%_]", "", document)
        assert bare.count("{") == bare.count("}")
        assert "\x1b" not in document
        assert not any(line.lstrip().startswith(("[", "*")) for line in document.splitlines())
        assert "^" not in document
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 1 + len(HOSTILE)
    assert {re.sub(r"\\&", "", row).count("&") for row in rows} == {len(HOSTILE)}


def test_hostile_names_are_inert_in_csv_and_markdown() -> None:
    table = paper_table({n: [hostile()] for n in HOSTILE}, by_characteristic=True, notes=["<b>|"])
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert len(rows) == len(HOSTILE) * (len(HOSTILE) + 1)
    assert all(not row["model"].startswith(("=", "+", "-", "@")) for row in rows)
    assert float(rows[0]["value"]) == pytest.approx(hostile()["locality.focus@=cmd()"])
    text = markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(HOSTILE) + 1
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(HOSTILE) + 2}
    assert not re.search(r"(?<!\\)[<>`\[]", text)
    assert "\x1b" not in text


def test_csv_says_which_model_is_best_only_if_the_models_were_compared() -> None:
    table = {"a": [hostile()], "b": [hostile()]}
    for best, expected in ((None, {"a": "", "b": ""}), (lambda _: "b", {"a": "0", "b": "1"})):
        rows = csv.DictReader(io.StringIO(as_csv(paper_table(table, best=best))))
        assert {row["model"]: row["best"] for row in rows} == expected


def test_a_malformed_address_is_refused() -> None:
    with pytest.raises(UsageError, match="not a valid address"):
        paper_table(runs(), ["locality"])


def test_flat_has_the_defined_values_by_name() -> None:
    run = run_of({"locality": ("focus", {"Smile": Mean(np.full(20, 0.5)), "Hat": "no region"})})
    assert ccvae_eval.flat(run) == {"locality/focus": 0.5, "locality/focus@Smile": 0.5}


def test_the_paragraph_on_methods_names_what_was_done() -> None:
    judge = {"sha256": "x", "trained_on": "faces\x1b"}
    run = model(1, judge=judge, regions={"source": "renderer"})
    text = methods({"a": [run]}, compared="images")
    assert "split of faces (digest d, seed 0)" in text
    assert "locality (version 1)" in text
    assert "locality: steps 11" in text
    assert "trained on faces\\x1b, digest x" in text
    assert "sign-flip" in text
    assert "Welch" in methods({"a": [run]}, compared="training seeds")
    assert "compared" not in methods({"a": [run]})


def test_models_that_were_evaluated_differently_are_described_one_by_one() -> None:
    data = {"digest": "e", "split": "test", "name": "cars", "n": 64}
    models = {"a": [model(1)], "b": [model(2, data=data, seed=7)], "c": [model(3)]}
    text = methods(models)
    assert re.search(r"Models \(a, c\) were evaluated .* of faces \(digest d, seed 0\)", text)
    assert re.search(r"Models \(b\) were evaluated .* on 64 images .* of cars \(digest e, seed 7\)", text)
    judged = {name: [model(1, judge={"sha256": name, "trained_on": "faces"})] for name in "ab"}
    assert "digest a)" in methods(judged)
    assert "digest b)" in methods(judged)


def test_the_model_index_of_a_model_card() -> None:
    (entry,) = model_index(model(1))["model-index"]
    metrics = entry["results"][0]["metrics"]
    assert [m["type"] for m in metrics] == [
        "locality.focus", "drift.spill", "accuracy.balanced_accuracy", "density.auc"
    ]  # fmt: skip
    assert metrics[0]["value"] == model(1)["locality.focus"]
    json.dumps(entry, allow_nan=False)
