"""`python -m tests.fuzz.guided`: files for every reader, mutated by what they make it do.

atheris (libFuzzer) changes small valid files and keeps the changes that reach new code of ours. Whatever the bytes, a
reader gives what it read or one line of at most 300 characters, within 10 s and 2 GB. A file that does anything else is
printed, and the program fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

NAMES = ("settings", "metrics", "labels", "paths", "idx", "pickle", "shards", "image")
SECONDS, MEGABYTES = 10, 2048  # that one file may take
LENGTH = 4096  # bytes of a file


def fuzz(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Tries one reader, in a process of its own, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["scatsimclr"]):
        from tests.fuzz.readers import readers
        from tests.fuzz.settings import answered
    reader = readers()[name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    suffixes = [Path(file).suffix for file in reader.files]
    for index, (file, content) in enumerate(reader.files.items()):
        (corpus / file).write_bytes(bytes([index]) + content)

    def once(data: bytes) -> None:
        if data:
            path = folder / f"file{suffixes[data[0] % len(suffixes)]}"  # the first byte chooses the name
            path.write_bytes(data[1:])
            answered(lambda: reader.read(path))

    arguments = [
        f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={LENGTH}",
        f"-seed={seed}", f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=0", str(corpus),
    ]  # fmt: skip
    atheris.Setup(["guided", *arguments], once)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(": ")[2].splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30, help="for each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    failed = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (name, options.seconds, options.seed, Path(folder) / name)
            child = multiprocessing.get_context("spawn").Process(target=fuzz, args=arguments)
            child.start()
            child.join()
            if child.exitcode:
                failed.append(name)
                for file in Path(folder, name).glob("*-*"):
                    print(f"{name}: {file.name} is {file.read_bytes()!r}")
    print(
        f"guided: {len(options.only)} readers, {options.seconds} s each, failed: {', '.join(failed) or 'none'}"
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
