"""`make fuzz`: coverage-guided fuzzing of everything that reads a run's files.

Each target runs in a process of its own, bounded in time and memory; an input that takes longer
than ten seconds is a failure, as is any exception but `DimeError`. Failing inputs are kept in
build/fuzz/. The exit status is 1 if there is one.
"""

import argparse
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

KEPT = Path("build", "fuzz")
SECONDS_PER_INPUT = 10
MEMORY = 4 * 2**30


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzzes one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["dime.training", "dime.envs.spaces", "dime.errors"]):
        from tests.fuzz.targets import Targets

    targets = Targets(folder)
    corpus = KEPT / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(targets.seeds(name)):
        (corpus / f"whole-{number}").write_bytes(content)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    target = getattr(targets, f"fuzz_{name}")

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MEMORY // 2**20}",
        f"-artifact_prefix={KEPT}/{name}-",
        "-max_len=4096",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


def report(name: str, seconds: int) -> bool:
    """Fuzzes one target in a process of its own and prints what came of it; whether it held."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a thousand files a second
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, "-m", "tests.fuzz.fuzz_readers", "--only", name]
        ended = subprocess.run(
            [*command, "--seconds", str(seconds), "--inside", f"{folder}/run"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 300,
        )
    counts = re.findall(r"^(?:Done |#)(\d+)", ended.stderr, flags=re.MULTILINE)
    inputs = max(map(int, counts), default=0)
    held = ended.returncode == 0 and inputs > 0
    print(f"{name:15} {inputs:9} inputs, {'0 failures' if held else 'FAILED'}", flush=True)
    if not held:
        print(ended.stdout[-2000:] + ended.stderr[-4000:])
    return held


def main() -> int:
    """All targets, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="for each target")
    parser.add_argument("--only", nargs="*", help="targets; all if none is named")
    parser.add_argument("--inside", type=Path, help="in this process and this folder, one target")
    asked = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    if asked.inside:
        fuzz(asked.only[0], asked.seconds, asked.inside)
    from tests.fuzz.targets import Targets

    with tempfile.TemporaryDirectory() as folder:
        known = Targets(Path(folder, "run")).names()
    return 0 if all([report(name, asked.seconds) for name in asked.only or known]) else 1


if __name__ == "__main__":
    sys.exit(main())
