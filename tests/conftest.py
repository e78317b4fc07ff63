"""Options of the whole test suite, and what its children inherit."""

import signal


def pytest_addoption(parser):
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write the golden transcripts instead of comparing with them"
    )


def pytest_configure(config):
    """A shell starts background jobs with Ctrl-C ignored, nohup ignores SIGHUP, and children inherit that; these tests
    send both to them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
