"""One rank: `python -m iberlm.core.rank MODULE ARGUMENTS` runs `python -m MODULE ARGUMENTS`, and notes signals to stop from its first moment on.

A module of training imports for many seconds, on a busy file system for minutes; a time limit's signal would end it meanwhile.
"""

import runpy
import sys

from iberlm.core.stopping import note_signals

if __name__ == "__main__":
    note_signals()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
