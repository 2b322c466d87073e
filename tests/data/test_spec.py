from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccvae_eval.core.errors import InputError, PluginError, UsageError
from ccvae_eval.data.sets.faces import Faces
from ccvae_eval.data.spec import VARIABLE, Spec, data_for, open_data, parse_spec, registered_spec
from ccvae_eval.plugins import registry


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("faces", Spec("faces", None, ())),
        (" faces,size=32 ", Spec("faces", None, (("size", "32"),))),
        ("folder:a/b c", Spec("folder", "a/b c", ())),
        ("folder:C:\\x\\y,size=64", Spec("folder", "C:\\x\\y", (("size", "64"),))),
        ("folder:a,b,c,size=64", Spec("folder", "a,b,c", (("size", "64"),))),
        ("folder:x,labels=A|B=C,size=8", Spec("folder", "x", (("labels", "A|B=C"), ("size", "8")))),
        ("folder:x,label=A=b,label=C=d|e", Spec("folder", "x", (("label", "A=b"), ("label", "C=d|e")))),
        ("folder:", Spec("folder", None, ())),
        ("ccvae-eval:faces,n=5", Spec("ccvae-eval:faces", None, (("n", "5"),))),
        ("ccvae-eval:folder:x:y", Spec("ccvae-eval:folder", "x:y", ())),
        ("nothing:here", Spec("nothing", "here", ())),
    ],
)
def test_parsing(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


@given(st.from_regex(r"[^=:]{1,20}", fullmatch=True).filter(lambda s: s == s.strip()), st.integers(0, 999))
def test_any_path_without_an_equals_sign_is_kept(path: str, size: int) -> None:
    assert parse_spec(f"folder:{path},size={size}") == Spec("folder", path, (("size", str(size)),))


@pytest.mark.parametrize("text", ["", "  ", ",size=3", ":path"])
def test_a_spec_needs_a_name(text: str) -> None:
    with pytest.raises(UsageError, match="the name of the data set is missing"):
        parse_spec(text)


def test_repeated_options_are_rejected() -> None:
    with pytest.raises(UsageError, match="'size' is given twice"):
        parse_spec("faces,size=32,size=64")


def test_opening_by_plain_and_qualified_name() -> None:
    plain, qualified = open_data("faces,n=10,size=32"), open_data("ccvae-eval:faces,n=10,size=32")
    assert isinstance(plain, Faces)
    assert plain.digest == qualified.digest


def test_label_requests_from_the_spec_and_the_argument_are_combined() -> None:
    data = open_data("faces,n=10,size=32,label=Glasses=Eyeglasses", ["Hat=Wearing_Hat"])
    assert {"Glasses", "Hat"} < set(data.schema.names)
    assert "Eyeglasses" not in data.schema
    again = open_data(data.spec)
    assert (again.schema, again.digest) == (data.schema, data.digest)


def test_unknown_names_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'faces'"):
        open_data("face")
    with pytest.raises(UsageError, match="Write folder:"):
        open_data(str(tmp_path))
    archive = tmp_path / "x.npz"
    archive.touch()
    with pytest.raises(UsageError, match=r"Write npz:"):
        open_data(str(archive))


def plugin(tmp_path: Path, body: str) -> str:
    file = tmp_path / "mine.py"
    file.write_text(f'{body}\nCCVAE_EVAL = {{"data": {{"{tmp_path.name}": Mine}}}}\n')
    registry.add_plugin_file(file)
    return tmp_path.name


def test_an_exception_in_a_plugin_is_attributed_to_it(tmp_path: Path) -> None:
    body = "class Mine:\n    @classmethod\n    def from_spec(cls, path, options):\n        return options['no']"
    name = plugin(tmp_path, body)
    with pytest.raises(PluginError, match=r"mine\.py: data set .* failed in from_spec\(path, options\) \(KeyError"):
        open_data(name)


def test_a_plugin_that_returns_another_type_is_rejected(tmp_path: Path) -> None:
    body = "class Mine:\n    @classmethod\n    def from_spec(cls, path, options):\n        return 3"
    name = plugin(tmp_path, body)
    with pytest.raises(PluginError, match="must return a data set, got int"):
        open_data(name)


def test_a_name_is_found_without_opening_the_data() -> None:
    entry, parsed = registered_spec("folder:absent,size=64")
    assert (entry.name, parsed.path, parsed.options) == ("folder", "absent", (("size", "64"),))
    with pytest.raises(UsageError, match="Did you mean 'folder'"):
        registered_spec("fodler:absent")


class TestDefaultData:
    """The data set of a command without ``--data``."""

    @pytest.fixture(autouse=True)
    def no_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(VARIABLE, raising=False)

    def test_the_option_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "npz:x")
        assert data_for("faces,n=3", "faces") == "faces,n=3"

    def test_the_variable_comes_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "npz:x")
        assert data_for(None, "faces") == "npz:x"

    def test_the_data_of_the_checkpoint_come_third_if_they_need_no_path(self) -> None:
        assert data_for(None, "faces,size=32") == "faces,size=32"

    @pytest.mark.parametrize(
        "own",
        [None, "", "folder", "folder:/etc", "mnist", "faces:/etc/passwd", "nobody", ",", "x=1,x=1"],
    )
    def test_otherwise_it_is_an_error(self, own: str | None) -> None:
        with pytest.raises(InputError, match="`data`") as caught:
            data_for(None, own)
        assert caught.value.exit_code == 3
        assert VARIABLE in caught.value.hint


def test_every_registered_name_is_a_data_set_class() -> None:
    for registration in registry.data_sets.registrations():
        if registration.distribution == registry.BUILTIN_DISTRIBUTION:
            assert callable(registration.load().from_spec)
    assert np.isin(["faces", "folder", "mnist", "npz"], list(registry.data_sets)).all()
