"""Which kernel a name stands for, and the command that gets, lists and deletes kernels."""

import platform
from pathlib import Path

import pytest

from sweep.cli.main import main
from sweep.common.errors import UserError
from sweep.common.kernel_releases import begins, release_key
from sweep.kernel_images import packaged_kernels
from sweep.kernel_images.kernel_cache import choose_kernels, kernels_folder, nearest
from tests.support.kernel_images import GOOD_CONFIG, write_arm, write_x86

RELEASES = ("6.1.0-50-cloud-amd64", "6.12.95+deb12-cloud-amd64", "6.12.117+deb13-cloud-amd64", "7.3.4-cloud-amd64")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with RELEASES and two kernels of arm64."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for release in RELEASES:
        write_x86(kernels_folder() / release / "vmlinuz", release)
    for release, page_kib in (("6.12.117-arm64-16k", 16), ("6.12.117-cloud-arm64", 4)):
        write_arm(kernels_folder() / release / "vmlinuz", release, page_kib)
    return kernels_folder()


def labels(*names: str, archs: tuple[str, ...] = ("x86-64",)) -> list[str]:
    return [choice.label for choice in choose_kernels(names, archs)]


def test_a_name_is_the_beginning_of_a_release(cache: Path) -> None:
    """It ends between two parts of the release, and stands for the newest one."""
    assert labels("6.1") == ["6.1.0-50-cloud-amd64"]
    assert labels("6.12", "7") == ["6.12.117+deb13-cloud-amd64", "7.3.4-cloud-amd64"]
    assert not begins("6.12.117", "6.1")
    assert not begins("6.12.117", "6.12.1")


def test_a_name_stands_for_a_kernel_of_each_arch_of_the_points(cache: Path) -> None:
    """Points of arm64 get kernels of arm64."""
    assert labels("6.12", archs=("arm64-16k",)) == ["6.12.117-arm64-16k"]
    assert labels("6.12", archs=("x86-64", "arm64-4k")) == ["6.12.117+deb13-cloud-amd64", "6.12.117-cloud-arm64"]
    with pytest.raises(UserError, match=r"kernel 7\.3: is there for x86-64; the points need arm64-4k"):
        labels("7.3", archs=("arm64-4k",))


def test_releases_are_sorted_by_their_numbers() -> None:
    """6.9 is older than 6.12, and a candidate older than its release."""
    releases = ["6.12.0", "6.9.1", "6.12-rc3", "7.0", "6.12.0-2", "6.12.0-10"]
    assert sorted(releases, key=release_key) == ["6.9.1", "6.12-rc3", "6.12.0", "6.12.0-2", "6.12.0-10", "7.0"]


def test_the_nearest_releases_are_named(cache: Path) -> None:
    """An unknown release is an error that names one of each series next to it."""
    with pytest.raises(
        UserError, match=r"kernel 6\.13: no such release .*nearest: 6\.1\.0-50.*, 6\.12\.117.*, 7\.3\.4"
    ):
        labels("6.13")
    assert nearest("6.13", [f"6.{n}.1" for n in range(30)])[0] == "6.9.1"


def test_bad_names(cache: Path, tmp_path: Path) -> None:
    """A file that is no kernel or is not there, a kernel twice, one without what a guest needs: one line each."""
    (tmp_path / "notes.txt").write_text("no kernel\n")
    poor = write_x86(tmp_path / "poor/bzImage", "6.9.0", GOOD_CONFIG.replace("CONFIG_BLK_DEV_INITRD=y\n", ""))
    cases = {
        str(tmp_path / "notes.txt"): "is no kernel image; known: bzImage of x86-64, Image of arm64",
        str(tmp_path / "gone"): "cannot read: No such file",
        f"{tmp_path}/": "cannot read: Is a directory",
        "": "an empty name",
        str(poor): "was built without CONFIG_BLK_DEV_INITRD, which a guest needs",
    }
    for name, why in cases.items():
        with pytest.raises(UserError, match=why):
            labels(name)
    with pytest.raises(UserError, match="is given twice"):
        labels("6.12", "6.12.117")


def test_two_kernels_of_one_release(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows could not tell them apart: refused with the option that renames one. Of two archs they are told apart."""
    monkeypatch.chdir(tmp_path)
    base, patched = (str(write_x86(Path(name, "bzImage"), "6.18.0")) for name in ("base", "patched"))
    with pytest.raises(UserError) as caught:
        labels(base, patched)
    assert str(caught.value).startswith(f"kernel {patched}: has the release of {base}, 6.18.0, by which rows tell")
    assert "CONFIG_LOCALVERSION" in str(caught.value)
    of_this_machine = write_x86(Path("own/bzImage"), platform.release())
    if platform.machine() == "x86_64":
        with pytest.raises(UserError, match="has the release of running"):
            labels("running", str(of_this_machine))
    arm = str(write_arm(Path("arm/Image"), "6.18.0", 4))
    assert labels(base, arm, archs=("x86-64", "arm64-4k")) == ["6.18.0", "6.18.0"]


def test_ls_and_rm(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rm` deletes all releases that the name begins, none if one name is wrong."""
    assert main(["kernel", "rm", "6.12", "5.4"]) == 2
    assert "kernel 5.4: no such release" in capsys.readouterr().err
    assert main(["kernel", "rm", "6.12"]) == 0
    capsys.readouterr()
    assert main(["kernel", "ls"]) == 0
    out = capsys.readouterr().out
    assert "6.1.0-50-cloud-amd64" in out
    assert "6.12" not in out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["get"], "kernel get: missing argument"),
        (["get", "6.12", "--arch", "arm64", "--page", "8KiB"], "not a page size of arm64; known: 4KiB, 16KiB, 64KiB"),
        (["get", "6.12", "--arch", "x86-64", "--page", "16KiB"], "not a page size of x86-64; known: 4KiB"),
        (["ls", "6.12"], "kernel ls: takes no RELEASE"),
        (["rm", ""], "kernel rm: an empty RELEASE"),
        (["get", "6.12", ""], "kernel get: an empty RELEASE"),
        (["got"], "'got' is not one of"),
    ],
)
def test_bad_usage(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is one line and exit code 2."""
    assert main(["kernel", *words]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("programs", "why"),
    [
        ((), "kernel 6.12: no qemu-system-x86_64; apt install qemu-system-x86"),
        (("qemu-system-x86_64",), "kernel 6.12: no C compiler for x86_64; "),
    ],
    ids=["no QEMU", "no compiler"],
)
@pytest.mark.usefixtures("cache")
def test_a_machine_that_lacks_what_a_guest_needs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    programs: tuple[str, ...],
    why: str,
) -> None:
    """One line with the command that installs it, exit code 2, and no store."""
    (tmp_path / "bin").mkdir()
    for name in programs:
        (tmp_path / "bin" / name).write_text("#!/bin/false\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert main(["launch", "first", "--engine", "kernel", "--kernel", "6.12"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sweep: {why}")
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_other_distributions(tmp_path: Path) -> None:
    """Where there are no packages to take, the message says to give a file."""
    (tmp_path / "os-release").write_text('ID=arch\nPRETTY_NAME="Arch Linux"\n')
    with pytest.raises(UserError, match="this is Arch Linux: give --kernel a file"):
        packaged_kernels.read_distribution(tmp_path / "os-release")
