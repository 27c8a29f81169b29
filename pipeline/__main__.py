"""Entry point of `ccd` and `python -m pipeline`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C is one line even before the first import is done."""
    try:
        from pipeline.cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
