"""The compared algorithms against numbers of their authors' released codes.

Every `.npz` file of the folder `DIME_GOLDEN_BASELINES_DIR` (default: this one) is tested. A file's
kind is the longest name of a module `test_KIND.py` that its stem begins with: `crossq.npz` and
`crossq_two_updates.npz` are both of the kind `crossq`. What a file lacks is left out; an array that
no test reads fails, but for those that a module lists in `NOT_COMPARED`.
"""
