"""What an export refuses before any work, and what it leaves behind when it is stopped."""

import pytest
import untrained

from ser_jax.exporting import outputs
from ser_jax.prediction import weights
from ser_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("m.stablehlo", "onnx", "format=onnx is not known; choose one of stablehlo, safetensors"),
        (
            "m.safetensors",
            "stablehlo",
            "m.safetensors: format=stablehlo writes a file that ends in .stablehlo",
        ),
        ("m", "safetensors", "ends in .safetensors"),
        ("nowhere/m.stablehlo", "stablehlo", "there is no folder .*nowhere; make it"),
        ("folder.stablehlo", "stablehlo", "folder.stablehlo cannot be written; name another file"),
        (
            "b.safetensors",
            "safetensors",
            "b.safetensors cannot be written",
        ),  # its card would be a folder
    ],
)
def test_outputs_that_cannot_be(tmp_path, name, kind, sentence):
    (tmp_path / "folder.stablehlo").mkdir()
    (tmp_path / "b.safetensors.md").mkdir()
    with pytest.raises(UserError, match=sentence):
        outputs.check_output(tmp_path / name, kind)


def test_a_file_about_the_data_is_for_cards_and_must_be_there(tmp_path):
    with pytest.raises(UserError, match="--about=nowhere.md: there is no such file; write it"):
        outputs.check_output(tmp_path / "m.safetensors", "safetensors", about="nowhere.md")
    with pytest.raises(UserError, match="--about is for the model card: add --format=safetensors"):
        outputs.check_output(tmp_path / "m.stablehlo", "stablehlo", about=__file__)


def test_outputs_that_can_be(tmp_path):
    (tmp_path / "m.stablehlo").write_text("an old one")
    outputs.check_output(tmp_path / "m.stablehlo", "stablehlo")
    outputs.check_output(tmp_path / "M.SafeTensors", "safetensors")


@pytest.mark.parametrize(
    "before", [{}, {"m.safetensors": "old weights", "m.safetensors.md": "# Their card\n"}]
)
def test_weights_and_card_come_together_or_not_at_all(tmp_path, monkeypatch, before):
    def interrupt(*_):
        raise KeyboardInterrupt

    for name, text in before.items():
        (tmp_path / name).write_text(text)
    output, found = tmp_path / "m.safetensors", untrained.make("plain_crnn")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(weights, "tensors", interrupt)
        outputs._write_both(output, found, {}, "# A card\n")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    outputs._write_both(output, found, {}, "# A card of ä\n")
    assert (tmp_path / "m.safetensors.md").read_text(encoding="utf-8") == "# A card of ä\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "m.safetensors.md"]
