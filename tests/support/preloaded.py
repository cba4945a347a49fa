"""Imports of a process of ``serve`` after its start, for the process that commands are forked from.

A start of ``serve`` on a new database costs a third of the CPU so. Nothing else imports this module.
"""

import gc
from importlib import import_module

from app.process.workers import load_application

load_application()
import_module("models.documents")
gc.enable()
gc.collect()
gc.freeze()  # no collection of a command writes to, and so copies, the shared memory
