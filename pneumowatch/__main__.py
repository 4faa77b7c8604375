"""Run the command line, as `pneumowatch` or `python -m pneumowatch`."""

import signal


def main() -> None:
    # During imports Ctrl-C ends the process at once: a KeyboardInterrupt could be swallowed there.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli import main as run

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
