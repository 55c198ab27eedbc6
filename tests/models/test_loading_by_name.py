"""A model's name that nothing can be behind is said to be that, and not what a reader of the hub makes of it."""

import pytest
from transformers import AutoModel

from fastmux.models.loading import read_pretrained, read_tokenizer


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./nowhere", "there is no such folder"),
        ("/nowhere/at/all", "there is no such folder"),
        ("a/b/c", "there is no such folder"),
        ("", "there is no such folder"),
        ("rows.txt", "it is a file, expected a folder, or a name on the Hugging Face hub"),
        ("empty", "the folder is empty"),
        ("https://huggingface.co/some/model", "it is an address, expected a folder, or a name on the Hugging Face hub"),
        ("nowhere", "there is no folder of that name, and from the hub: "),
        ("nobody/nowhere", "there is no folder of that name, and from the hub: "),
    ],
)
def test_names(name, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("a row")
    (tmp_path / "empty").mkdir()
    for read in (lambda: read_pretrained(AutoModel, name, "tokenizer"), lambda: read_tokenizer(name)):
        with pytest.raises(ValueError) as raised:
            read()
        assert str(raised.value).startswith(f"tokenizer {name!r} cannot be loaded: {reason}")


def test_paths(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded: there is no such folder"):
        read_tokenizer(tmp_path / "nowhere")
