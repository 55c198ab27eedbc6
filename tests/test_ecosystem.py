"""What people do with a Hugging Face model, done with a multiplexed one."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from models import BERT, batch
from peft import LoraConfig, get_peft_model
from thoroughness import ALL, on_request
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

import fastmux
from fastmux.testing import assert_agrees

WORDS = "the a film was good bad dull and very one of best worst year ever seen".split()  # noqa: SIM905
TEXTS = [
    "the film was good",
    "a very dull film",
    "bad and bad",
    "one of the best",
    "the worst film of the year ever seen",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]  # the tests' encoders pad with 1
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=30, **names)


class TestPipelines:
    def run(self, task, model, tokenizer, texts=TEXTS, **options):
        return pipeline(task, model=model.eval(), tokenizer=tokenizer, device="cpu")(texts, **options)

    @pytest.mark.parametrize("size", [1, 3, 5])
    def test_text_classification(self, tokenizer, size):
        labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
        model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 3, num_labels=2, **labels)
        out = self.run("text-classification", model, tokenizer, batch_size=size, top_k=None)
        assert [{entry["label"] for entry in row} for row in out] == [{"no", "yes"}] * 5
        rows = tokenizer(TEXTS[:size], padding=True, return_tensors="pt")
        expected = model(**rows).logits.softmax(-1)
        for row, probabilities in zip(out, expected, strict=False):
            scores = {entry["label"]: entry["score"] for entry in row}
            assert scores["yes"] == pytest.approx(probabilities[1].item(), abs=1e-5)

    def test_texts_longer_than_the_prefix_leaves_room_for(self, tokenizer, tmp_path):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = 40  # the encoder's
        model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 3, demultiplexer="index")
        long = [" ".join(["film"] * 60)] * 2
        assert len(self.run("text-classification", model, tokenizer, long, truncation=True)) == 2
        assert model.fit_tokenizer(tokenizer) is tokenizer and tokenizer.model_max_length == 36
        expected = self.run("text-classification", model, tokenizer, long, truncation=True)
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        loaded = pipeline("text-classification", model=str(tmp_path), device="cpu")(long, truncation=True)
        assert_agrees(*(torch.tensor([row["score"] for row in rows]) for rows in (loaded, expected)))

    def test_token_classification(self, tokenizer):
        model = fastmux.TMuxForTokenClassification.from_backbone(BERT, 3, num_labels=4)
        out = self.run("token-classification", model, tokenizer, batch_size=5, aggregation_strategy="simple")
        assert len(out) == 5
        assert all(text[e["start"] : e["end"]] for text, row in zip(TEXTS, out, strict=True) for e in row)

    def test_fill_mask(self, tokenizer):
        model = fastmux.TMuxForMaskedLM.from_backbone(BERT, 3)
        model.resize_token_embeddings(len(tokenizer))
        out = self.run("fill-mask", model, tokenizer, [f"{text} [MASK]" for text in TEXTS], batch_size=5, top_k=2)
        assert [len(row) for row in out] == [2] * 5 and all(entry["token_str"] for row in out for entry in row)

    def test_feature_extraction(self, tokenizer):
        out = self.run("feature-extraction", fastmux.TMux(BERT, 3), tokenizer, batch_size=5, return_tensors=True)
        longest = max(len(text.split()) for text in TEXTS)
        assert [tuple(row.shape) for row in out] == [(1, longest, 16)] * 5


def test_the_vocabulary_can_be_resized(tmp_path):
    for cls in (fastmux.TMuxForMaskedLM, fastmux.TMuxForRetrieval, fastmux.TMuxForSequenceClassification):
        for tied in (True, False):
            model = cls.from_backbone(BERT, 3, tie_word_embeddings=tied).eval()
            rows = batch(6)
            states = model.tmux.demultiplex(mux := model.tmux.encode(**rows), mux.content)
            for size in (70, 65):
                model.resize_token_embeddings(size)
                assert model.config.vocab_size == size and model.retrieval.decoder.bias.shape == (size,)
                assert tied or model.retrieval.decoder.weight.shape == (size, 16)
            assert_agrees(model.tmux.demultiplex(mux := model.tmux.encode(**rows), mux.content), states)
            model.save_pretrained(tmp_path)
            assert cls.from_pretrained(tmp_path).get_input_embeddings().num_embeddings == 65


HEADS = (fastmux.TMuxForSequenceClassification, fastmux.TMuxForTokenClassification)


EXPORTS = list(itertools.product(HEADS, ["index", "key", "mlp", "unbind"]))


@pytest.mark.parametrize(("head", "demux"), EXPORTS if ALL else EXPORTS[::3])
def test_export(head, demux):
    model = head.from_backbone(BERT, 3, demultiplexer=demux, num_labels=4).eval()
    groups, length = torch.export.Dim("groups", min=1, max=64), torch.export.Dim("length", min=2, max=30)
    shapes = {name: {0: 3 * groups, 1: length} for name in ("input_ids", "attention_mask")}
    exported = torch.export.export(model, (), batch(6, padded=True), dynamic_shapes=shapes).module()
    for rows in (batch(6, padded=True), batch(3, padded=True), batch(3, length=2), batch(12, length=9, padded=True)):
        assert_agrees(exported(**rows).logits, model(**rows).logits)


@pytest.mark.parametrize(("head", "demux"), list(zip(HEADS, ["index", "unbind"], strict=True))[: None if ALL else 1])
def test_onnx(head, demux, tmp_path):
    model = head.from_backbone(BERT, 3, demultiplexer=demux, num_labels=4).eval()
    groups, length = torch.export.Dim("groups", min=1, max=64), torch.export.Dim("length", min=2, max=30)
    shapes = {name: {0: 3 * groups, 1: length} for name in ("input_ids", "attention_mask")}
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (), str(file), kwargs=batch(6, padded=True), dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for rows in (batch(6, padded=True), batch(3, padded=True), batch(3, length=2), batch(12, length=9, padded=True)):
        feeds = {i.name: rows[i.name].numpy() for i in session.get_inputs()}
        (logits,) = session.run(None, feeds)
        assert_agrees(torch.from_numpy(logits), model(**rows).logits.detach())


@on_request
def test_two_processes_take_the_step_of_one():
    """DDP and FSDP, with and without a prefix."""
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    path = os.pathsep.join([str(tests.parent), str(tests)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, str(tests / "parallel.py")], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_accelerate_and_lora_on_a_frozen_encoder(tmp_path):
    """What is trained: low-rank updates of the attention, the demultiplexer and the head."""
    model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 3, num_labels=2)
    lora = LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["classifier", "demultiplexer"])
    peft = get_peft_model(model, lora)
    before = {name: p.detach().clone() for name, p in peft.named_parameters()}
    trained = [p for p in peft.parameters() if p.requires_grad]
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(peft, torch.optim.AdamW(trained, lr=1e-2))
    rows = batch(12)
    rows["labels"] = torch.arange(12) % 2
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(prepared(**rows).task_loss.item())
        accelerator.backward(prepared(**rows).loss)
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, p in peft.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in peft.named_parameters() if p.requires_grad}
    assert all(any(part in name for part in ("lora_", "classifier", "demultiplexer")) for name in changed)
    peft.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 40_000


def test_a_model_card_goes_with_a_model(tmp_path):
    model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 3, num_labels=2)
    model.save_pretrained(tmp_path / "sentiment")
    card = ModelCard.load(tmp_path / "sentiment" / "README.md")
    assert card.data.library_name == "fastmux" and card.data.pipeline_tag == "text-classification"
    assert "num-instances-3" in card.data.tags and 'from_pretrained("sentiment")' in card.text
    (tmp_path / "sentiment" / "README.md").write_text("my own")
    model.save_pretrained(tmp_path / "sentiment")
    assert (tmp_path / "sentiment" / "README.md").read_text() == "my own"
