"""The command: ``python checker FILE.npz``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__:
    from . import check, read
else:  # run as a directory
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from checker import check, read  # pyright: ignore[reportMissingImports]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: accepted; 1: rejected; 2: not a certificate."""
    parser = argparse.ArgumentParser(description="Check a certificate of jrobust.bounds.prove.")
    parser.add_argument("file")
    parser.add_argument("--rational", action="store_true", help="compute in fractions (small networks)")
    parser.add_argument("--expect", metavar="DIGEST", help="the digest that the function must have")
    parser.add_argument("--expect-set", metavar="DIGEST", help="the digest that the set must have")
    args = parser.parse_args(argv)
    try:
        meta, arrays = read(args.file)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    report = check(meta, arrays, exact=args.rational, expect=args.expect, expect_set=args.expect_set)
    print(f"function {report.function}\nset      {report.set}")
    print(f"accepted: all {len(report.bounds)} outputs are at most {max(report.bounds):g} on the set ({report.leaves} parts)"
          if report.accepted else f"rejected: {report.reason}")  # fmt: skip
    return 0 if report.accepted else 1


if __name__ == "__main__":
    sys.exit(main())
