"""The card that goes with a model: into its folder, and to the hub, in place of Hugging Face's form."""

from pathlib import Path

import pytest
import transformers.modeling_utils
import transformers.utils.hub
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers import BertConfig, BertForSequenceClassification

import fastmux
from fastmux.files import destination, replacing, replacing_files
from fastmux.models.model_card import card_of, is_template, named, title

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


def tmux():
    return fastmux.TMuxForSequenceClassification.from_backbone(BertConfig(**TINY), 2)


def joined():
    return fastmux.JoinedForSequenceClassification.from_backbone(BertForSequenceClassification(BertConfig(**TINY)), 2)


@pytest.fixture
def hub(monkeypatch):
    """A hub without a network: what is there, by file, and what was sent to it."""
    there: dict[str, str] = {}

    class Api:
        def create_repo(self, repo_id, **options):
            return type("Repository", (), {"repo_id": repo_id})

        def create_commit(self, repo_id, operations, **options):
            for operation in operations:
                content = operation.path_or_fileobj
                if operation.path_in_repo.endswith(".md"):
                    there[operation.path_in_repo] = Path(content).read_text(encoding="utf-8")
            there["repository"] = repo_id

    def load(repo_id, token=None):
        if "README.md" not in there:
            raise EntryNotFoundError("there is none")
        return ModelCard(there["README.md"])

    monkeypatch.setattr(transformers.modeling_utils, "hf_api", Api)
    monkeypatch.setattr(transformers.utils.hub, "hf_api", Api)
    monkeypatch.setattr(transformers.utils.hub.ModelCard, "load", staticmethod(load))
    return there


def save(model, folder):
    model.save_pretrained(folder, push_to_hub=True, repo_id="me/fast")


def push(model, folder):
    model.push_to_hub("me/fast")


@pytest.mark.parametrize("make", [tmux, joined])
@pytest.mark.parametrize("way", [save, push])
class TestPushed:
    def test_our_card_goes_to_the_hub(self, way, make, hub, tmp_path):
        model = make()
        way(model, tmp_path / "here")
        card = ModelCard(hub["README.md"])
        assert card.data.library_name == "fastmux" and card.data.pipeline_tag == "text-classification"
        assert f'fastmux.{type(model).__name__}.from_pretrained("me/fast")' in card.text and "# fast\n" in card.text
        assert not is_template(card) and hub["repository"] == "me/fast"
        if way is save:
            assert (tmp_path / "here" / "README.md").read_text() == hub["README.md"]

    def test_a_card_that_is_there_stays(self, way, make, hub, tmp_path):
        hub["README.md"] = "---\ntags: [own]\n---\n\n# Written by hand\n"
        way(make(), tmp_path / "here")
        assert "# Written by hand" in hub["README.md"]

    def test_the_card_it_was_loaded_with_goes_with_it(self, way, make, hub, tmp_path):
        """With what was measured, say, or a licence; told where the model is now."""
        make().save_pretrained(tmp_path / "here")
        written = tmp_path / "here" / "README.md"
        written.write_text(written.read_text() + "\nMeasured: 0.9\n")
        way(type(make()).from_pretrained(tmp_path / "here"), tmp_path / "there")
        card = hub["README.md"]
        assert "Measured: 0.9" in card and 'from_pretrained("me/fast")' in card and "# fast\n" in card
        assert "here" not in card.replace("there", "")

    def test_the_former_form_is_replaced(self, way, make, hub, tmp_path):
        hub["README.md"] = ModelCard.from_template(ModelCard("---\ntags: []\n---\n").data).content
        way(make(), tmp_path / "here")
        assert not is_template(ModelCard(hub["README.md"]))


def test_a_card_written_by_hand_is_pushed_from_its_folder_and_kept_there(hub, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "README.md").write_text("---\ntags: [own]\n---\n\nmine\n")
    save(joined(), tmp_path / "here")
    assert "mine" in hub["README.md"] and "mine" in (tmp_path / "here" / "README.md").read_text()


def test_the_card_of_another_task_stays_behind(hub, tmp_path):
    """An encoder that was saved under another head brings no card of that."""
    fastmux.TMuxForRetrieval.from_backbone(BertConfig(**TINY), 2).save_pretrained(tmp_path / "warm")
    push(fastmux.TMuxForSequenceClassification.from_pretrained(tmp_path / "warm"), None)
    assert "TMuxForSequenceClassification.from_pretrained" in hub["README.md"]


@pytest.mark.parametrize("make", [tmux, joined])
def test_a_card_is_titled_by_where_the_model_will_be(make, tmp_path):
    with replacing(tmp_path / "task-index" / "model") as temporary:
        make().save_pretrained(temporary)
    card = (tmp_path / "task-index" / "model" / "README.md").read_text()
    assert "# task-index\n" in card and 'from_pretrained("task-index/model")' in card and "writing" not in card
    make().save_pretrained(tmp_path / "mine")
    assert "# mine\n" in (tmp_path / "mine" / "README.md").read_text()


def test_temporary_names_are_known(tmp_path):
    for name in ("model", "table.csv", "a.b"):
        with replacing(tmp_path / name) as temporary:
            assert destination(temporary) == tmp_path / name
            temporary.write_text("")
    with replacing_files(tmp_path / "folder", lambda *_: []) as staging:
        assert destination(staging) == tmp_path / "folder"
    assert destination(tmp_path / "mine") == tmp_path / "mine"


def test_names_on_the_hub_and_what_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    names = ["bert-base-uncased", "me/some.model_2", "local", "/home/me/model", "runs/a/model", "./x", "", None]
    assert [named(name) for name in names] == [*names[:2], *[None] * 6]
    assert title("me/fast") == "fast" and title("runs/index/model") == "index" and title("out/") == "out"


def test_what_a_card_says_is_read_and_no_card_is_no_error(tmp_path):
    assert card_of("") is None and card_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: [de]\n---\n\ntext")
    found = card_of(str(tmp_path))
    assert found.license == "mit" and found.language == ["de"]
    (tmp_path / "README.md").write_text("---\n: [\n---\n\ntext")
    assert card_of(str(tmp_path)) is None
