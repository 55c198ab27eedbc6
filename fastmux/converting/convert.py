"""`convert`: make a faster copy of a trained encoder, with its head, from text without labels."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from fastmux.converting.card import conversion_card
from fastmux.converting.checks import check_alone, check_disk, check_enough, check_labels
from fastmux.converting.plain_copies import PlainCopies, PlainCopy, steps_in_all
from fastmux.converting.verdict import advice, beside_plain, sentence
from fastmux.distillation.agreement import Agreement, groupings_of, measure_agreement
from fastmux.distillation.distil import distil, distillation_arguments
from fastmux.distillation.embedding_student import EmbeddingStudent
from fastmux.distillation.settings import STRUCTURE, ConversionSettings
from fastmux.distillation.speed import CONVERTED, FORWARD, ORIGINAL, REPEATS, measure_speed
from fastmux.distillation.teacher import compute_teacher_outputs, teacher_bytes
from fastmux.distillation.texts import Row, check_texts, tokenize, with_prompt
from fastmux.embedding.loading import embeds
from fastmux.embedding.model import EmbeddingModel
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.files import check_output_dir, digest_of, remove, write_errors, write_json
from fastmux.labelling.known_text import check_known
from fastmux.labelling.tokenized_model import room_of
from fastmux.models.joined import JoinedForSequenceClassification, JoinedForTokenClassification, JoinedModel
from fastmux.models.loading import check_vocabulary, read_pretrained, read_tokenizer
from fastmux.models.problems import problem_of

#: For each ending of the original's class, the class that loads it and the class of the converted model.
_STUDENTS = {
    "ForSequenceClassification": (AutoModelForSequenceClassification, JoinedForSequenceClassification),
    "ForTokenClassification": (AutoModelForTokenClassification, JoinedForTokenClassification),
    "Model": (AutoModel, JoinedModel),
}
#: A folder in the output folder while a conversion runs: the original's outputs, checkpoints, TensorBoard's logs.
_WORK, _SETTINGS = ".conversion", "settings.json"
_RECORD = "conversion.json"
#: The share and the largest number of rows that are not trained on, to measure agreement and speed on.
HELD_OUT_SHARE, HELD_OUT_ROWS = 0.1, 2000
#: The most of them that speed is measured on, in turns.
_TIMED_ROWS = 400


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion, which is also the content of ``conversion.json``.

    Attributes:
        agreement: The agreement with the original, on rows that nothing was trained on.
        rows_per_second: The rows a second of "converted" and "original", both as `fastmux.predict` runs them, and of
            "forward", the original as Hugging Face runs it in batches of 32; and of plain copies, by what they are. All
            ran the same rows, in turns.
        speed_up: How many times as fast as the original the converted model is, both as `fastmux.predict` runs them.
        speed_up_forward: How many times as fast as the original as Hugging Face runs it.
        seconds: The time of training, including that of processes that were interrupted.
        sentence: The verdict, in words.
        advice: Sentences that say whether it was worth it, and what would help.
        plain: Plain copies of about this speed, beside this model after a few steps; none where nothing is joined.
    """

    settings: dict
    train_rows: int
    cut_rows: int
    agreement: Agreement
    rows_per_second: dict[str, float]
    speed_up: float
    speed_up_forward: float
    steps: int
    seconds: float
    sentence: str = ""
    advice: list[str] = field(default_factory=list)
    plain: list[PlainCopy] = field(default_factory=list)
    log: list[dict] = field(default_factory=list, repr=False)


def convert(
    model: str | PathLike | PreTrainedModel | EmbeddingModel,
    texts: Sequence[Row],
    output_dir: str | PathLike,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    settings: ConversionSettings | None = None,
    estimate: bool = True,
    **trainer: object,
) -> Conversion:
    """Make a faster copy of a trained model, whose deeper layers process N states in one pass.

    The copy starts from the original's weights, head included. It learns the original's last hidden states and logits
    for ``texts`` (`fastmux.distillation.trainer.distillation_loss`). Its loss depends on the kind of labels, which
    ``problem_type`` says: one label, several, a number, or a label for each token (`fastmux.models.problems`). The copy
    of a model of sentence-transformers learns its vectors, and is written as one that sentence-transformers loads where
    fastmux is imported. Call `convert` again with the same arguments after an interruption: it goes on from its last
    checkpoint.

    Args:
        model: A Hugging Face encoder, or one with a sequence or token classification head; or its name or folder; or
            that of a model of sentence-transformers, which gives texts its default prompt.
        texts: The rows: texts, or pairs of texts, of the kind that the model will be used on. They need no labels.
            `fastmux.read_texts` reads them from files.
        output_dir: A new folder for the model, its tokenizer and ``conversion.json``. Where nothing is joined and all
            heads are kept, it holds a model of the original's class, which runs without fastmux.
        tokenizer: The model's tokenizer. It is loaded with a model that is given as a name or a folder.
        settings: The settings; `ConversionSettings` lists them.
        estimate: Whether to train plain copies of about the same speed as well, for a tenth of the steps, and to say
            what they keep beside this one after as many. It takes up to a fifth more time. Where nothing is joined, or
            steps are too few, it is left out.
        trainer: Further arguments of `transformers.TrainingArguments`, for example ``max_steps`` or ``bf16``.

    Returns:
        The agreement with the original and the speed of both.

    Raises:
        ValueError: The model is no encoder, or has no tokenizer or one of another vocabulary; the tokenizer has no pad
            token; there are too few texts, texts in another script, or something else than texts; the original gives
            all of them one label, or NaN; there is nothing to learn from; the output folder has other content; or
            several processes were started. Raised before anything is trained.
        OSError: The disk is full. What was trained is kept.
    """
    check_alone()
    settings = settings or ConversionSettings()
    texts = check_texts(texts)
    original, tokenizer, student_class, prompt = _load(model, tokenizer)
    structure = {name: getattr(settings, name) for name in STRUCTURE}
    student_class.from_backbone(original, settings.num_instances, **structure)  # raises what is wrong with it
    if prompt is not None:
        texts = with_prompt(texts, prompt)
    if settings.state_weight == 0 and student_class is JoinedModel:
        raise ValueError(
            f"state_weight is {settings.state_weight}, expected a number above 0: the model has no head whose labels "
            "could be learnt"
        )
    least = max(2, math.ceil(settings.num_instances / HELD_OUT_SHARE))
    check_enough(len(texts), least, HELD_OUT_SHARE)
    folder, work = Path(output_dir), Path(output_dir) / _WORK
    identity = {**asdict(settings), "trainer": trainer, "texts": digest_of(texts), "model": _weights_digest(original)}
    identity = json.loads(json.dumps(identity, default=str))
    check_output_dir(folder, work / _SETTINGS, identity, "conversion")

    set_seed(settings.seed)
    rows = tokenize(texts, tokenizer, settings.max_length)
    check_known(np.concatenate(rows["input_ids"]), tokenizer)
    longest, room = max(rows["length"]), room_of(original)
    if longest > room:
        raise ValueError(
            f"max_length is {settings.max_length}, but the model has room for {room} tokens, and a row has {longest}"
        )
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    # Whole groups, so that no row is repeated to fill one.
    kept = min(HELD_OUT_ROWS, int(HELD_OUT_SHARE * len(rows)))
    kept = max(settings.num_instances, kept // settings.num_instances * settings.num_instances)
    held_out, train = rows.select(order[:kept]), rows.select(order[kept:])
    cut = int(np.sum(np.asarray(rows["length"]) >= settings.max_length))
    # Of other positions nothing is learnt: a head does not read them, or their error has no weight.
    first_only = student_class is JoinedForSequenceClassification
    first_only |= student_class is EmbeddingStudent and settings.state_weight == 0
    size = teacher_bytes(np.asarray(train["length"]), original.config.hidden_size, first_only)
    arguments = distillation_arguments(work, settings, trainer)
    original = original.eval().to(arguments.device)
    problem = None if student_class is JoinedModel else problem_of(original)
    check_labels(original, tokenizer, held_out, problem)
    check_disk(folder, size, original)
    print(f"the original's outputs for {len(train)} rows: {size / 2**20:.0f} MiB in {work}", flush=True)
    with write_errors(folder, "the same command"):
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / _SETTINGS, identity)
        teacher = compute_teacher_outputs(
            original, tokenizer, train, work / "teacher", fingerprint=digest_of(identity), first_only=first_only
        )
        copies = PlainCopies(
            original,
            student_class,
            tokenizer,
            settings,
            trainer,
            train,
            teacher,
            held_out,
            problem,
            work / "plain",
        )
        student, early = copies.make(settings), work / "early.npy"
        callbacks = []
        if estimate and settings.num_instances > 1 and copies.choose(student, steps_in_all(arguments, len(train))):
            copies.learn()
            callbacks = [copies.watch(early, partial(copies.make, settings), then=partial(_say_early, copies, early))]
        weight = settings.state_weight
        student, state, seconds = distil(
            student, tokenizer, train, teacher, arguments, state_weight=weight, callbacks=callbacks
        )
    # (Of a conversion that is long past these steps, from a process that made no estimate, there is none.)
    others = copies.models() if callbacks and early.is_file() else {}
    with tqdm(total=(3 + len(others)) * (REPEATS + 1), desc="speed", unit="turn") as bar:
        timed = held_out.select(range(min(_TIMED_ROWS, len(held_out))))
        found = measure_speed(student, original, tokenizer, timed, bar.update, others)
    rates = {name: rate.rows_per_second for name, rate in found.items()}
    plain = []
    if others:
        plain = copies.compared(early, [rates[name] / rates[ORIGINAL] for name in others], copies.kept(student))
    # With joined positions a row depends on no other, so that all groupings are equal.
    joined_rows = settings.num_instances if settings.join == "rows" else 1
    with tqdm(total=groupings_of(joined_rows) * len(held_out), desc="agreement", unit="row") as bar:
        agreement = measure_agreement(
            student,
            original,
            tokenizer,
            held_out,
            num_instances=joined_rows,
            seed=settings.seed,
            on_rows=bar.update,
        )
    speed_up, speed_up_forward = (rates[CONVERTED] / rates[name] for name in (ORIGINAL, FORWARD))
    conversion = Conversion(
        settings=identity,
        train_rows=len(train),
        cut_rows=cut,
        agreement=agreement,
        rows_per_second=rates,
        speed_up=speed_up,
        speed_up_forward=speed_up_forward,
        steps=state.global_step,
        seconds=round(seconds, 1),
        sentence=sentence(agreement, speed_up, speed_up_forward),
        advice=advice(speed_up, state.log_history, plain, problem),
        plain=plain,
        log=state.log_history,
    )
    with write_errors(folder, "the same command"):
        saved = student.plain() if student.config.is_plain else student
        if isinstance(saved, EmbeddingModel):
            saved.save_pretrained(folder, tokenizer)
        else:
            tokenizer.save_pretrained(folder)
            saved.save_pretrained(folder)
        conversion_card(conversion, student, saved, original, str(output_dir)).save(folder / "README.md")
        write_json(folder / _RECORD, asdict(conversion))
        remove(work)
    return conversion


def _say_early(copies: PlainCopies, early: Path) -> None:
    """Say what the estimate found, as soon as it is known: most of the steps are still to come."""
    for one in copies.compared(early):
        if one.better:
            said = beside_plain(one, copies.problem)
            tqdm.write(f"fastmux convert: {said} Ctrl-C stops here; the same command goes on.", file=sys.stderr)


def _load(
    model: str | PathLike | PreTrainedModel | EmbeddingModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Any, PreTrainedTokenizerBase, Any, str | None]:
    """The original, its tokenizer, the class of the converted model, and the prompt of a model that embeds."""
    if isinstance(model, EmbeddingModel) or embeds(model):
        found = Vectorizer.of(model, tokenizer)
        return found.model, found.tokenizer, EmbeddingStudent, found.prompt
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise ValueError("tokenizer is None, expected the tokenizer of the model")
        kind = next((end for end in _STUDENTS if type(model).__name__.endswith(end)), None)
        if kind is None:
            raise ValueError(f"model is a {type(model).__name__}, expected a class that ends in {', '.join(_STUDENTS)}")
    else:
        config = read_pretrained(AutoConfig, model, "model")
        named = (config.architectures or ["Model"])[0]
        kind = next((end for end in _STUDENTS if named.endswith(end)), "Model")
        tokenizer = tokenizer or read_tokenizer(model)
        model = read_pretrained(_STUDENTS[kind][0], model, "model")
    check_vocabulary(model, tokenizer)
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token, which batches need")
    return model, tokenizer, _STUDENTS[kind][1], None


def _weights_digest(model: PreTrainedModel) -> str:
    """A digest of the shapes and a few values of all weights, to tell models apart."""
    sample = {
        name: [list(t.shape), t.flatten()[:: max(1, t.numel() // 16)].float().tolist()]
        for name, t in model.state_dict().items()
    }
    return digest_of(sample)
