"""The table of new values, from the responses that the pages of the study record."""

from pathlib import Path

from ccvae_eval.plugins.registry import metrics
from study.new_values import END, NEW, START, responses, table, write_table

PAGE = """
## Values under their own perturbations

| value | perturbation |
|---|---|
| `m.old` | mix |

## Response of every value to every perturbation

### m

| value | mix | dim | leak |
|---|---|---|---|
| `old` | **1.00 → 0** | · 1.00 | · 1.00 |
| `other m=1` | · 1.00 | 1.00 → 0.5 | · 1.00 |
| `twin` | 1.00 → – | · 1.00 | · 1.00 |
| `each n=1` | · 1.00 | 1.00 → 0.5 | · 1.00 |
| `each n=2` | · 1.00 | · 1.00 | · 1.00 |
| `more` | **1.00 → 0** | · 1.00 | 1.00 → 0.2 |
| `absent` |  |  |  |
"""


def test_responses_are_changes_beyond_the_intervals() -> None:
    assert responses(PAGE) == {
        "m": {
            "old": frozenset({"mix"}),
            "other m=1": frozenset({"dim"}),
            "twin": frozenset({"mix"}),
            "each n=1": frozenset({"dim"}),
            "each n=2": frozenset(),
            "more": frozenset({"mix", "leak"}),
        }
    }


def test_a_new_value_is_compared_with_the_established_ones() -> None:
    rows = table([PAGE], {"m": ("twin", "more", "each", "absent"), "unknown": ("x",)}).splitlines()[2:]
    assert rows == [
        "| `m.twin` | mix | – | `old` | – | – | with `old` |",
        "| `m.more` | leak, mix | leak | `old` | leak | – | no |",
        "| `m.each n=1` | dim | – | `other m=1` | – | – | with `other m=1` |",
        "| `m.each n=2` | – | – | `old` | – | mix | no |",
    ]


def test_every_new_value_exists() -> None:
    assert all(name in metrics[metric].values for metric, names in NEW.items() for name in names)


def test_the_table_in_the_docs_is_that_of_the_pages(tmp_path: Path) -> None:
    docs = Path("docs")
    (tmp_path / "metrics").mkdir()
    for name in [*(page.name for page in docs.glob("calibration-*.md")), "metrics/calibration.md"]:
        (tmp_path / name).write_text((docs / name).read_text())
    write_table(tmp_path)
    written = (tmp_path / "metrics/calibration.md").read_text()
    assert written == (docs / "metrics/calibration.md").read_text()
    section = written.split(START)[1].split(END)[0]
    assert all(f"`{metric}.{name}" in section for metric, names in NEW.items() for name in names)
