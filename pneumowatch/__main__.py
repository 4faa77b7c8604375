"""`pneumowatch`, and `python -m pneumowatch`."""

import signal


def main() -> None:
    # While all is imported, Ctrl-C ends it outright: as an exception it can get lost in there, and nothing ends.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli import main as run

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
