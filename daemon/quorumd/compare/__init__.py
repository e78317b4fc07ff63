"""One workload on each engine, side by side: what they cost, how fast they are, and which to choose.

    workload.py    the YAML file that says what is run
    schedule.py    which clusters are measured, and in which order: pure
    cluster.py     a cluster made for a while, and its counters
    measure.py     load on one of them: rounds, kills, how many nodes it does without
    run.py         all of it, in order
    document.py    the result as plain data
    advice.py      which engine to choose, and why: pure
    summary.py page.py plots.py    the result for people
"""
