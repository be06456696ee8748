"""The sweeps of `python -m scatsimclr.reproduce`.

`catalogue` says what each sweep runs and what was published, `sweep` where its results are, `running` runs it, and
`tables` and `plots` show what it found.
"""
