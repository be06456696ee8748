"""Small records in the shape of `benchmarks.measure.record`, for tests."""


def figures(medians, spread, rounds):
    """competitors and over_ours with quartiles `spread` to either side."""
    around, ours = [1 - spread, 1 + spread], medians["ours"]
    return {
        "competitors": {
            name: {"median_s": m, "quartiles_s": [m * f for f in around], "rounds": rounds}
            for name, m in medians.items()
        },
        "over_ours": {
            name: {"ratio": m / ours, "quartiles": [m / ours * f for f in around]}
            for name, m in medians.items()
        },
    }


def record(op="loss", case=None, phases=None, spread=0.02, rounds=25, changes=None, **medians):
    """A record of `ours` and, as peers, the other keywords; `changes` replaces entries."""
    return {
        "op": op,
        "case": case or {"M": 64},
        "items": 64,
        "device": "cpu",
        "threads": 2,
        "work": {},
        "share": {},
        "precision": "float32",
        "peers": [name for name in medians if name != "ours"],
        "missing": {},
        "phases": {name: figures(phase, spread, rounds) for name, phase in (phases or {}).items()},
        **figures(medians, spread, rounds),
        **(changes or {}),
    }
