"""The imports of all workers, made once: by the process that workers are forked from, before there is one.

``multiprocessing`` imports this module there. A worker then costs a tenth of the CPU of a new process, shares
its modules' memory with the others, and replaces a dead one within a fraction of a second.
"""

import gc
import signal

from app.process.workers import load_application

signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: a Ctrl-C of the terminal is for the parent alone
load_application()
gc.collect()
gc.freeze()  # no collection touches, and so copies, the memory that workers share
