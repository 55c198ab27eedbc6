"""The tasks that ``train.py`` knows: a task is one file here and one line in ``TASKS``."""

from training.tasks.base import Task
from training.tasks.conll2003 import Conll2003Task
from training.tasks.sst2 import Sst2Task
from training.tasks.stdlib import StdlibTask

#: Every task by name.
TASKS: dict[str, type[Task]] = {task.name: task for task in (StdlibTask, Sst2Task, Conll2003Task)}
