"""Each reason for which rows are skipped is counted, with the first row; those that may matter say so."""

from pathlib import Path

import pytest

from sweep.cli.main import main

MAPPED = "mmap(NULL, 4194304, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000"
PERF = "     1.000 ( 0.005 ms): app/7 "
PERF_MAPPED = f"{PERF}mmap(len: 4194304, prot: READ|WRITE, flags: PRIVATE|ANONYMOUS) = 0x7f0000000000"
SCRIPT = "app     7 [000]     1.000000: "
ARRAY = "[{iov_base=0x7f0000000000, iov_len=4096}, ...]"

SKIPPED = [
    (MAPPED, "write(1, NULL, 0) = 0", "other system calls"),
    (MAPPED, "hello", "not a line of strace's"),
    (MAPPED, "munmap(0x7f0000000000, 4096) = -1 EINVAL (Invalid argument)", "munmap that failed"),
    (MAPPED, "madvise(0x7f0000000000, 4096, MADV_COLD) = 0", "MADV_COLD gives nothing back"),
    (MAPPED, "madvise(0x7f0000000000, 4096, 0x63 /* MADV_??? */) = 0", "advice 0x63 gives nothing back"),
    (MAPPED, "process_madvise(3, [], 0, MADV_COLD, 0) = 0", "MADV_COLD gives nothing back"),
    (MAPPED, "madvise(0x7f0000000100, 4096, MADV_DONTNEED) = 0", "start is not on a 4096-byte page"),
    (MAPPED, "madvise(0x7f0000000000, 0, MADV_DONTNEED) = 0", "dontneed of no bytes"),
    (MAPPED, "madvise(0xffffffff0000, 1099511627776, MADV_DONTNEED) = 0", "beyond what a process can map"),
    (MAPPED, "madvise(0x7f1000000000, 4096, MADV_POPULATE_READ) = -1 ENOMEM (Cannot)", "madvise that failed"),
    (PERF_MAPPED, f"{PERF}close(fd: 3) = 0", "other system calls"),
    (PERF_MAPPED, "hello", "not a line of perf's"),
    ("tid,op,addr,len\n7,mmap,4194304,4096", "7,mmap,0,4096", "mmap without the address that it got"),
    ("tid,op,addr,len\n7,mmap,4194304,4096", "7,brk,4096,0", "brk without the address that it got"),
    ("tid,op,addr,len\n7,mmap,4194304,4096", "7,MADV_COLD,4194304,4096", "MADV_COLD gives nothing back"),
    ("tid,op,addr,len\n7,mmap,4194304,4096", "7,shake,4194304,4096", "unknown call 'shake'"),
    ("tid,op,addr,len\n7,mmap,4194304,4096", "7,munmap,100,4096", "start is not on a 4096-byte page"),
]
DOUBTS = [
    (MAPPED, "munmap(0x7f0000000000) = 0", "munmap with 1 arguments"),
    (MAPPED, "munmap(0x7f0000000000, many) = 0", "munmap with arguments that are no numbers"),
    (MAPPED, "munmap(0x7f00000", "munmap: cut off, or not a line of strace's"),
    (MAPPED, "<... munmap resumed>) = 0", "munmap resumed, but not begun in this file"),
    (MAPPED, "shmat(3, NULL, 0) = 0x7f1000000000", "shmat maps System V memory of unknown size"),
    (MAPPED, "shmdt(0x7f1000000000) = 0", "shmdt unmaps System V memory of unknown size"),
    (MAPPED, "remap_file_pages(0x7f0000000000, 4096, 0, 0, 0) = 0", "remap_file_pages changes a file mapping"),
    (MAPPED, "map_shadow_stack(0, 4096, 0) = 0x7f1000000000", "map_shadow_stack maps a shadow stack"),
    (
        MAPPED,
        "madvise(0x7f0000000000, 4096, MADV_REMOVE) = 0",
        "MADV_REMOVE frees pages of shared memory, which stay in RES here",
    ),
    (
        MAPPED,
        "madvise(0x7f0000000000, 4096, MADV_PAGEOUT) = 0",
        "MADV_PAGEOUT may swap out pages, which stay in RES here",
    ),
    (
        MAPPED,
        'prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0x7f0000000000, 4096, "heap") = 0',
        "PR_SET_VMA_ANON_NAME keeps neighbouring mappings apart, which is not counted",
    ),
    (
        MAPPED,
        f"process_madvise(3, {ARRAY}, 2, MADV_DONTNEED, 0) = 8192",
        "process_madvise with ranges that are not shown (strace -v shows them)",
    ),
    (
        MAPPED,
        "mremap(0x7f0000000000, 4096, 8192, MREMAP_MAYMOVE) = -1 EFAULT (Bad address)",
        "mremap that failed midway may have moved a part (Linux 6.17)",
    ),
    (PERF_MAPPED, "LOST 5 events!", "perf lost 5 events"),
    (PERF_MAPPED, f"{PERF}munmap(addr: 0x7f00", "munmap: cut off, or not a line of perf's"),
    (
        PERF_MAPPED,
        f"{PERF} ... [continued]: munmap()) = 0",
        "munmap continued, but not begun in this file",
    ),
    (
        f"{SCRIPT}syscalls:sys_enter_brk: brk: 0x00000000\n{SCRIPT}syscalls:sys_exit_brk: 0x1000",
        f"{SCRIPT}syscalls:sys_exit_munmap: 0x0",
        "munmap returns, but does not begin in this file",
    ),
]


def notes(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `replay` says on stderr of a file that it reads."""
    assert main(["replay", "--format", "csv", "--policy", "merged", str(path)]) == 0
    return [line.removeprefix(f"{path}: ") for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(("before", "row", "reason"), SKIPPED, ids=[reason for _, _, reason in SKIPPED])
def test_skipped(before: str, row: str, reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A row that counts for nothing, twice: both are counted under the reason, and the first is named."""
    path = tmp_path / "calls.txt"
    path.write_text(f"{before}\n{row}\n{row}\n")
    first = before.count("\n") + 2
    assert f"2 rows skipped, the first is row {first}: {reason}" in notes(path, capsys)


@pytest.mark.parametrize(("before", "row", "reason"), DOUBTS, ids=[reason for _, _, reason in DOUBTS])
def test_doubtful(before: str, row: str, reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A row that may have changed what is mapped or resident, twice: `the figures may be wrong`."""
    path = tmp_path / "calls.txt"
    path.write_text(f"{before}\n{row}\n{row}\n")
    first = before.count("\n") + 2
    assert f"the figures may be wrong: 2 rows, the first is row {first}: {reason}" in notes(path, capsys)


@pytest.mark.parametrize(
    ("before", "row", "note"),
    [
        (MAPPED, "munmap(0x7f0000000000, 4096 <unfinished ...>", "1 calls such as munmap that never returned"),
        (MAPPED, "madvise(0x7f0000000000, 4096strace: Process 7 attached", "cut off"),
        (
            f"{SCRIPT}syscalls:sys_enter_brk: brk: 0x00000000\n{SCRIPT}syscalls:sys_exit_brk: 0x1000",
            f"{SCRIPT}syscalls:sys_enter_munmap: addr: 0x7f0000000000, len: 0x00001000",
            "1 calls such as munmap that never returned",
        ),
    ],
)
def test_at_the_end(before: str, row: str, note: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A call that did not return, or a torn row, at the end of a recording."""
    path = tmp_path / "calls.txt"
    path.write_text(f"{before}\n{row}\n")
    last = before.count("\n") + 2
    assert f"the figures may be wrong: 1 row, the first is row {last}: {note}" in notes(path, capsys)
