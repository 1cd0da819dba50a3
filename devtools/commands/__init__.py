"""The commands of dev.py, one module each: `add_arguments(parser)` and `run(arguments) -> int`.

dev.py imports all of them on a bare Python before the environment exists. So such a module imports only the standard
library at its top, and everything else in `run`. A module may define VARIABLES, environment variables that are set
before the command's process starts, unless they are set already.
"""

# A thread that waits by spinning takes time from other processes and makes torch several times slower.
SHARED_CPU = {"OMP_WAIT_POLICY": "PASSIVE"}
