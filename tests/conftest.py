"""Options of the whole test suite."""


def pytest_addoption(parser):
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write the golden transcripts instead of comparing with them"
    )
