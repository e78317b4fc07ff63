"""Options of the whole test suite."""


def pytest_addoption(parser):
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write what happens into tests/**/golden/*.txt instead of comparing"
    )
