"""Imports shared by all workers, loaded once by the process that workers are forked from.

``multiprocessing`` imports this module there. A worker then costs a tenth of the CPU of a new process, shares
the memory of its modules with the others, and replaces a dead one within a fraction of a second.
"""

import gc
import signal

from app.process.workers import load_application

signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: only the parent handles Ctrl-C
load_application()
gc.collect()
gc.freeze()  # no collection writes to, and so copies, the shared memory
