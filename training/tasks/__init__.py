"""The tasks that ``train.py`` knows: each is one file here, an import and an entry of ``TASKS``.

One's own files need none.
"""

from training.tasks.base import Task
from training.tasks.conll2003 import Conll2003Task
from training.tasks.own_files import OwnFiles
from training.tasks.pairs import MnliTask, QnliTask, QqpTask
from training.tasks.research_articles import ResearchArticlesTask
from training.tasks.sst2 import Sst2Task
from training.tasks.statements import StatementsTask
from training.tasks.stdlib import StdlibTask

#: Every task by name.
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        StatementsTask,
        StdlibTask,
        Sst2Task,
        MnliTask,
        QnliTask,
        QqpTask,
        ResearchArticlesTask,
        Conll2003Task,
    )
}


def make_task(options: dict[str, object]) -> Task:
    """The task that the program's arguments (`training.arguments.Options`, as a dict) name or describe."""
    if options["train_file"]:
        return OwnFiles(**{name: options[name] for name in OwnFiles.__dataclass_fields__})
    return TASKS[options["task"]]()
