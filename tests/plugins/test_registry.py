"""The plugin registry: lookup, collisions, suggestions, broken plugins and plugin files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccvae_eval.core.errors import PluginError, UsageError
from ccvae_eval.plugins import registry

GOOD = """
class Mine:
    pass

CCVAE_EVAL = {"models": {"mine": Mine}}
"""


@pytest.fixture(autouse=True)
def _fresh_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_files", {})


def test_builtin_models_are_registered_like_any_other() -> None:
    assert {"vae", "ccvae"} <= set(registry.models)
    assert registry.models["ccvae"].__name__ == "CCVAE"
    assert registry.models["ccvae-eval:ccvae"] is registry.models["ccvae"]


def test_an_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ccvae'"):
        registry.models["ccvea"]


def test_the_name_of_a_value_is_told_where_to_find_its_metric() -> None:
    with pytest.raises(UsageError, match="ccvae-eval explain focus tells its metric"):
        registry.metrics.find("focus")


def test_a_plugin_file_registers_its_classes(tmp_path: Path) -> None:
    file = tmp_path / "my_plugin.py"
    file.write_text(GOOD)
    registry.add_plugin_file(file)
    assert registry.models["mine"].__name__ == "Mine"


def test_a_name_registered_twice_is_an_error_that_the_qualified_name_resolves(tmp_path: Path) -> None:
    file = tmp_path / "clash.py"
    file.write_text(GOOD.replace('"mine"', '"ccvae"'))
    registry.add_plugin_file(file)
    with pytest.raises(UsageError, match=r"registered by .*ccvae-eval") as caught:
        registry.models["ccvae"]
    assert "ccvae-eval:ccvae" in caught.value.hint
    assert registry.models["ccvae-eval:ccvae"].__name__ == "CCVAE"
    assert registry.models[f"{file}:ccvae"].__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('no')", "cannot be run"),
        ("raise SystemExit(3)", "cannot be run"),
        ("import not_there_at_all", "PYTHONPATH"),
        ("x = 1", "registers no classes"),
        ("CCVAE_EVAL = {'modles': {}}", "Did you mean 'models'"),
    ],
)
def test_the_error_of_a_broken_plugin_file_names_the_cause(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / f"broken_{abs(hash(text))}.py"
    file.write_text(text)
    with pytest.raises(PluginError, match=message):
        registry.add_plugin_file(file)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        registry.add_plugin_file(tmp_path / "absent.py")


def test_a_broken_entry_point_names_its_distribution() -> None:
    broken = registry.Registration("models", "gone", "not_a_module_here:Thing", "some-package", "1.0")
    with pytest.raises(PluginError, match=r"some-package 1\.0"):
        broken.load()


def test_the_environment_variable_restricts_the_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    external = registry.Registration("models", "other", "x:Y", "third-party", "1")
    builtin = registry.Registration("models", "vae", "ccvae_models.vae:VAE", registry.BUILTIN_DISTRIBUTION, "0")
    monkeypatch.setattr(registry, "_installed", lambda: (external, builtin))
    assert set(registry.models) == {"other", "vae"}
    monkeypatch.setenv(registry.PLUGINS_VARIABLE, "none")
    assert set(registry.models) == {"vae"}
    monkeypatch.setenv(registry.PLUGINS_VARIABLE, "third-party")
    assert set(registry.models) == {"other", "vae"}


def test_the_environment_variable_takes_distributions_and_single_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tuple(registry.Registration("models", n, "x:Y", "Some_VAEs", "1") for n in ("one", "two"))
    monkeypatch.setattr(registry, "_installed", lambda: entries)
    monkeypatch.setenv(registry.PLUGINS_VARIABLE, "some-vaes")
    assert set(registry.models) == {"one", "two"}
    monkeypatch.setenv(registry.PLUGINS_VARIABLE, "Some_VAEs:two")
    assert set(registry.models) == {"two"}


def test_the_output_of_a_plugin_file_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "talks.py").write_text("print('hello')\n" + GOOD)
    registry.add_plugin_file(tmp_path / "talks.py")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "hello" in shown.err


def test_two_plugin_files_with_the_same_name_are_two_modules(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plug.py").write_text(GOOD.replace('"mine"', f'"{name}"'))
        registry.add_plugin_file(tmp_path / name / "plug.py")
    assert registry.models["a"].__module__ != registry.models["b"].__module__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('CCVAE_EVAL = {"models": {"x": "Absent"}}', "names 'Absent', which the file does not define"),
        ('CCVAE_EVAL = {"models": {"x": 3}}', "must be a class, got int"),
        ('CCVAE_EVAL = {"models": 3}', "must map names to classes"),
        ("CCVAE_EVAL = {}", "registers no classes"),
    ],
)
def test_a_malformed_plugin_table_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / f"table_{abs(hash(text))}.py"
    file.write_text(text)
    with pytest.raises(PluginError, match=message):
        registry.add_plugin_file(file)


def test_sys_path_is_not_changed(tmp_path: Path) -> None:
    import sys

    (tmp_path / "neighbour.py").write_text("x = 1")
    (tmp_path / "needs.py").write_text("import neighbour\n" + GOOD)
    before = list(sys.path)
    with pytest.raises(PluginError, match="PYTHONPATH=FOLDER") as caught:
        registry.add_plugin_file(tmp_path / "needs.py")
    assert "'neighbour' is not installed, and" in caught.value.hint
    assert sys.path == before


def test_a_distribution_in_the_current_folder_is_not_picked_up(tmp_path: Path) -> None:
    """Only --plugin files and installed distributions count, and folders named in PYTHONPATH."""
    import os
    import subprocess
    import sys

    info = tmp_path / "lurking-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lurking\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ccvae_eval.models]\nlurks = os:system\n")
    listing = [sys.executable, "-m", "ccvae_eval.cli.main", "list", "models"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    default = subprocess.run(listing, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "lurks" not in default.stdout
    environment["PYTHONPATH"] = str(tmp_path)
    named = subprocess.run(listing, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "lurks" in named.stdout


def test_list_shows_why_a_plugin_file_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from ccvae_eval.cli.main import main

    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    (tmp_path / "fine.py").write_text(GOOD)
    with pytest.raises(SystemExit) as ended:
        main(
            ["list", "models", "--json", "--plugin", str(tmp_path / "broken.py"), "--plugin", str(tmp_path / "fine.py")]
        )
    assert not ended.value.code
    rows = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["broken"] == "broken: plugin file cannot be run (SystemExit: 3)"
    assert rows["mine"] == "registered"


def test_installed_distributions_are_read_from_their_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, file in (("My_VAE-1.5.dist-info", "METADATA"), ("old.egg-info", "PKG-INFO"), ("bare-2.dist-info", "")):
        info = tmp_path / folder
        info.mkdir()
        if file:
            (info / file).write_text(f"Name: {folder[:3]}\nVersion: 1.5\nSummary: a: b\n\nName: in the description\n")
        (info / "entry_points.txt").write_text(
            "# a comment\n[console_scripts]\nx = y:z\n\n[ccvae_eval.models]\n  mine = os.path:join [extra]\n"
        )
    monkeypatch.setattr(registry, "_search_path", lambda: [str(tmp_path), str(tmp_path / "missing")])
    found = registry._installed.__wrapped__()
    assert {(r.distribution, r.version) for r in found} == {("My_", "1.5"), ("old", "1.5"), ("bare-2", "")}
    assert {(r.group, r.name, r.target) for r in found} == {("models", "mine", "os.path:join [extra]")}
    assert found[0].load() is os.path.join


def test_the_source_of_a_class_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "unimported"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner.py").write_text("class Mine: ...")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.Registration("metrics", "x", "unimported.inner:Mine", "d", "1").source() == "class Mine: ..."
    for target in ("unimported.absent:Mine", "absent:Mine", "sys:path"):
        assert registry.Registration("metrics", "x", target, "d", "1").source() == ""
