"""The laboratory's commands of dev.py; see devtools/commands for what such a module holds."""

from devtools.commands import SHARED_CPU

__all__ = ["FULL_CPU", "SHARED_CPU"]

# For long runs that have the CPU to themselves. Threads that wait by spinning are a third faster there. And memory that
# glibc returns to the system after each layer and requests again in the next costs as much time as the arithmetic.
FULL_CPU = {
    "OMP_WAIT_POLICY": "ACTIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2 * 10**9),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 10**9),
}
