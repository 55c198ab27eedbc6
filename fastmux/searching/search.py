"""`search`: the fastest model that answers as a given one does, or the best one of a given speed."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path

import datasets
import transformers
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.texts import Row, check_texts, with_prompt
from fastmux.embedding.loading import cut_at
from fastmux.embedding.model import EmbeddingModel
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.files import check_output_dir, digest_of, remove, replacing_files, write_errors, write_json
from fastmux.labelling.threshold import CASCADE, Calibration
from fastmux.models.joined import JoinedPreTrainedModel
from fastmux.passes.runtimes.record import RECORD, RuntimeRecord
from fastmux.searching import verdict as verdicts
from fastmux.searching.card import search_card
from fastmux.searching.checks import check_answers, check_disk, check_runtime, checked_original
from fastmux.searching.forms import Form
from fastmux.searching.found import Found
from fastmux.searching.labels import read_labels
from fastmux.searching.picture import draw_points
from fastmux.searching.plan import FINALISTS, Plan
from fastmux.searching.points import Point
from fastmux.searching.racer import Race
from fastmux.searching.rows import SearchRows
from fastmux.searching.run import Run
from fastmux.searching.settings import SearchSettings
from fastmux.settings import settings_of

#: A folder in the output folder while a search runs, and what tells whose it is.
_WORK, _SETTINGS = ".search", "settings.json"
RESULT, PICTURE, CARD = "search.json", "search.png", "README.md"


def search(
    model: str | PathLike | PreTrainedModel | EmbeddingModel,
    texts: Sequence[Row],
    output_dir: str | PathLike,
    *,
    labels: Sequence[object] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    settings: SearchSettings | None = None,
    **options,
) -> Found:
    """Find the fastest model that answers as a given one does, or the best one of a given speed.

    Candidates are made of the original (`fastmux.searching.levers`) and learn its answers for ``texts`` in a race: all
    get a few steps, the better half more, and so on. The best are measured beside the original, also in 8 bits and with
    the original behind them for rows of doubt. The best for the need is written to ``output_dir``. Call `search` again
    with the same arguments after an interruption: it goes on where it stopped.

    Args:
        model: A classifier of sequences or tokens, as from Hugging Face; or its name or folder; or that of a model of
            sentence-transformers, which gives texts its default prompt.
        texts: The rows: some thousand different texts, or pairs of texts, of the kind that the model will be used on.
            `fastmux.read_texts` reads them from files.
        output_dir: A new folder for the model, its tokenizer, ``search.json``, ``search.png`` and a card.
        labels: The true label of each row, a name or a number, or for several labels a list with 0 or 1 for each. They
            change nothing of the search; accuracy or F1 is reported.
        tokenizer: The model's tokenizer. It is loaded with a model that is given as a name or a folder.
        settings: The settings; or give the fields of `SearchSettings` as ``options``.

    Returns:
        What was found.

    Raises:
        ValueError: The model neither labels nor embeds, gives numbers or NaN, or is multiplexed or exported already;
            there are too few different texts, texts in another language, or pairs for a model that embeds; the original
            gives all of them one label or one vector; the time is too short for one candidate; the folder has other
            content; or an option is out of range.
        OSError: The disk is full. What was trained is kept.

    Example:
        >>> import random, tempfile
        >>> import fastmux
        >>> from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
        >>> words = [f"w{i}" for i in range(40)]
        >>> known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(known)})
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
        >>> tiny = BertConfig(vocab_size=45, initializer_range=0.5, **sizes)
        >>> model = BertForSequenceClassification(tiny)  # yours is trained
        >>> draw = random.Random(0)
        >>> texts = [" ".join(draw.choices(words, k=draw.randint(3, 9))) for _ in range(600)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = fastmux.search(model, texts, folder + "/faster", tokenizer=tokenizer, speedup=2.0, max_steps=4)
        ...     labelled = fastmux.Labeller(folder + "/faster")(texts[:2])
        >>> found.finished, sorted(labelled[0])
        (True, ['label', 'score'])
    """
    settings = settings_of(SearchSettings, settings, options, "search")
    check_runtime(settings)
    texts = check_texts(texts)
    with _quiet():
        classifier = checked_original(model, tokenizer)
    truth = None
    if isinstance(classifier, Vectorizer):
        if labels is not None:
            raise ValueError("labels is given, but the model embeds: its vectors are compared with no labels")
        texts = with_prompt(texts, classifier.prompt)
    elif labels is not None:
        if classifier.per_token:
            raise ValueError("labels is given, but the model labels words: it is searched for without true labels")
        if len(labels) != len(texts):
            raise ValueError(f"labels has {len(labels)} values, expected one for each of the {len(texts)} texts")
        truth = read_labels(labels, classifier.names, classifier.problem_type)
    folder, record = Path(output_dir), Path(output_dir) / _WORK / _SETTINGS
    identity = {**asdict(settings), "texts": digest_of(texts), "labels": digest_of(labels), **classifier.fingerprint()}
    check_output_dir(folder, record, identity, "search")
    own = cut_at(classifier, None) if isinstance(classifier, Vectorizer) else classifier.max_length(None)
    length = min(settings.max_length, own)
    rows = SearchRows.of(texts, truth, classifier, length, settings.seed)
    check_disk(folder, rows, classifier)
    begun = record.is_file()
    with _quiet(), write_errors(folder, "the same command"):
        write_json(record, identity)
        name = str(model) if isinstance(model, (str, PathLike)) else "ORIGINAL"
        run = Run(classifier, rows, settings, folder / _WORK, _say)
        try:
            majority = check_answers(run.parts[1], run.classifier.names)
            plan = run.plan()
        except ValueError:
            if not begun:  # other text, or more minutes, is another search
                remove(folder / _WORK)
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        return _search(run, plan, majority, folder, name, str(output_dir), identity)


def _search(
    run: Run, plan: Plan | None, majority: float, folder: Path, model: str, output_dir: str, identity: dict
) -> Found:
    race, interrupted = None, False
    if plan is not None:
        race = run.race(plan)
        shown = "{desc} |{bar:12}| {elapsed}<{remaining} {postfix}"
        with tqdm(total=round(plan.seconds(), 1), bar_format=shown, smoothing=0.02) as bar:
            try:
                race.run(bar)
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            _say("interrupted: the best so far is measured and written; interrupt again to stop at once")
    points, forms, models = run.finish(race, 1 if interrupted else FINALISTS + 1)
    floor = run.floor()
    verdict = verdicts.decide(points, run.need)
    told = verdicts.Told(
        model=model,
        output_dir=output_dir,
        candidates=len(race.ranked()) if race else 0,
        still_rising=bool(race) and any(verdicts.still_rising(s.history) for s in race.ranked()[:FINALISTS]),
        passes=_passes(run, race),
        minutes=run.settings.minutes,
        interrupted=interrupted,
    )
    header, lines = verdicts.table(points, verdict, floor, run.kind)
    found = Found(
        sentence=verdicts.sentence(verdict, points[0], run.need, told, floor),
        met=verdict.met,
        chosen=verdict.chosen,
        points=points,
        floor=floor,
        rows={
            "learning": len(run.learning[0]),
            "choosing": len(run.rows.choosing),
            "reporting": len(run.rows.reporting),
            "repeated": run.rows.repeated,
            "cut": run.rows.cut,
        },
        kind=run.kind.name,
        majority=majority,
        left_out=run.left_out,
        history={s.name: s.history for s in race.ranked()} if race else {},
        settings=identity,
        finished=not interrupted,
        table=[header, *lines],
    )
    form = forms[verdict.chosen.form]
    _write(found, run, form, models[form.model], folder, output_dir, verdict.behind)
    if not interrupted:
        remove(folder / _WORK)
    return found


def _passes(run: Run, race: Race | None) -> float:
    """How often the candidate that was trained longest has read each row."""
    if race is None or not race.ranked():
        return 0.0
    return race.ranked()[0].steps * run.settings.per_device_train_batch_size / len(run.learning[0])


def _calibration(points: list[Point], both: Point, run: Run) -> Calibration:
    """The threshold of a cascade as ``predict`` and ``serve`` read it."""
    alone = next(p for p in points if p.form == both.form and not p.cascade)
    return Calibration(
        min_confidence=both.min_confidence,
        target_agreement=both.choosing.mean,
        agreement=both.agreement.mean,
        agreement_interval=both.agreement.interval(),
        agreement_alone=alone.agreement.mean,
        fallback_share=both.went_on,
        rows=both.agreement.count,
        copies=1,
        fallback=run.classifier.fingerprint()["model"],
        rows_per_second={
            "model": alone.rows_per_second,
            "fallback": next(p.rows_per_second for p in points if p.name == both.behind),
            "cascade": both.rows_per_second,
        },
    )


def _write(
    found: Found,
    run: Run,
    form: Form,
    model: PreTrainedModel | EmbeddingModel,
    folder: Path,
    output_dir: str,
    behind: Point | None,
) -> None:
    """The chosen model, whole or not at all, and what is to be said of it."""
    with replacing_files(folder, lambda written, former: former) as staging:
        model = model.to("cpu")
        ours = isinstance(model.encoder if isinstance(model, EmbeddingModel) else model, JoinedPreTrainedModel)
        if ours and model.config.is_plain:  # Hugging Face has the class
            model, ours = model.plain(), False
        if isinstance(model, EmbeddingModel):
            model.save_pretrained(staging, run.tokenizer)
        else:
            model.save_pretrained(staging)
            run.tokenizer.save_pretrained(staging)
        if form.folder is not None:
            for name in (*RuntimeRecord.read(form.folder).files, RECORD):
                shutil.copyfile(form.folder / name, staging / name)
        if (both := found.chosen if found.chosen.cascade else behind) is not None:
            write_json(staging / CASCADE, asdict(_calibration(found.points, both, run)))
        write_json(staging / RESULT, asdict(found))
        draw_points(staging / PICTURE, found.points, found.chosen, run.need)
        search_card(found, run.original, output_dir, form, ours).save(staging / CARD)


def _say(words: str) -> None:
    tqdm.write(f"fastmux search: {words}", file=sys.stderr)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without other libraries' bars and notes: one line says how far the search is."""
    bars, level = datasets.are_progress_bars_disabled(), transformers.logging.get_verbosity()
    shown = transformers.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if shown:
            transformers.logging.enable_progress_bar()
        if not bars:
            datasets.enable_progress_bars()
