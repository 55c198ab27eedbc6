"""The tasks that ``train.py`` knows: each is one file here, an import and an entry of ``TASKS``.

One's own files need none.
"""

from fastmux.training.tasks.base import Task
from fastmux.training.tasks.conll2003 import Conll2003Task
from fastmux.training.tasks.glue import MnliTask, QnliTask, QqpTask, Sst2Task
from fastmux.training.tasks.own_files import OwnFiles
from fastmux.training.tasks.own_tokens import OwnTokens, is_conll
from fastmux.training.tasks.research_articles import ResearchArticlesTask
from fastmux.training.tasks.statements import StatementsTask
from fastmux.training.tasks.stdlib import StdlibTask

#: Every task by name.
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (StatementsTask, StdlibTask, Sst2Task, MnliTask, QnliTask, QqpTask, ResearchArticlesTask, Conll2003Task)
}


def labels_tokens(options: dict[str, object]) -> bool:
    """Whether files of one's own are rows of tokens with tags."""
    return options["tags_column"] is not None or any(map(is_conll, options["train_file"]))


def make_task(options: dict[str, object]) -> Task:
    """The task that the program's arguments (`fastmux.training.arguments.RunOptions`, as a dict) name or describe."""
    if options["train_file"]:
        kind = OwnTokens if labels_tokens(options) else OwnFiles
        return kind(**{name: options[name] for name in kind.__dataclass_fields__})
    return TASKS[options["task"]]()
