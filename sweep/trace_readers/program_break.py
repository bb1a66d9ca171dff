"""What a change of the program break maps or unmaps."""

from sweep.trace_readers.calls import Call


def break_change(row: int, requested: int, old_break: int, new_break: int, page: int) -> Call | None:
    """The mmap or munmap of the pages between two breaks; None if there are none, or the old break is not known.

    brk(NULL) only queries the break.
    """
    old_end, new_end = -(-old_break // page) * page, -(-new_break // page) * page
    if not old_break or not requested or old_end == new_end:
        return None
    if new_end > old_end:
        return Call(row, "mmap", old_end, new_end - old_end)
    return Call(row, "munmap", new_end, old_end - new_end)
