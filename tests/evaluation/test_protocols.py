"""Protocols answer as the drivers do; leaderboards refuse what cannot be compared."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jrobust as jr
from jrobust.evaluation import PROTOCOLS, Entry, add_entry, leaderboard, read_entries, run_protocol
from jrobust.evaluation._ranks import RULE
from tests.processes import ROOT

W = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
X = np.random.default_rng(1).uniform(0.1, 0.9, size=(9, 8, 8, 1)).astype(np.float32)


def model(x):
    return x.reshape(len(x), -1) @ W


Y = np.asarray(model(X)).argmax(1)
Y[8] = (Y[8] + 1) % 3


def small(name, n=9, **asked):
    p = PROTOCOLS[name]
    return dataclasses.replace(p, n=n, asked=tuple((dict(p.asked) | asked).items()))


def numbers(rows):
    return {r.name: r for r in rows}


def test_the_protocols_are_what_they_were():
    """A change of any of these is another version: raise ``version``, and put the new fingerprint here."""
    assert {p.title: p.fingerprint for p in PROTOCOLS.values()} == FINGERPRINTS


def test_attacks_and_bounds_agree_on_a_linear_model():
    eps = 0.02
    attacked = numbers(run_protocol(small("linf-digits", eps=eps, steps=5, queries=20), model, X, Y, title="m"))
    proven = numbers(run_protocol(small("verified-digits", eps=eps, steps=20), model, X, Y, title="m", batch_size=4))
    # exact: the margin against each class less eps times the L1 norm of the difference of weights, away from the clip
    logits = model(X)
    differences = np.abs(W[:, :, None] - W[:, None]).sum(0)
    worst = logits - logits[np.arange(9), Y][:, None] + eps * differences[Y]
    worst[np.arange(9), Y] = -np.inf
    robust = (worst < 0).all(1).mean()
    assert attacked["clean"].value == 8 / 9
    assert attacked["autoattack"].side == "lower"
    assert proven["crown"].side == "upper"
    assert 0 < robust <= proven["crown"].value <= proven["pgd"].value
    assert attacked["autoattack"].value == proven["crown"].value
    assert proven["crown"].n == 9
    assert proven["crown"].eps == eps


def test_corruption_error_is_the_mean_of_the_errors(key):
    protocol = small("corruptions-digits", corruptions=("brightness", "gaussian_noise"), severities=(2, 5))
    error = numbers(run_protocol(protocol, model, X, Y, title="m", batch_size=4))["mean corruption error"]
    wrong = [
        np.asarray(model(jr.corruptions.corrupted(jr.corruptions.cifar_c[k], X, severity=s, key=key))).argmax(1) != Y
        for k in ("brightness", "gaussian_noise")
        for s in (2, 5)
    ]
    assert error.value == pytest.approx(np.mean(wrong))
    assert error.value == pytest.approx(jr.metrics.mean_corruption_error({"a": [w.mean() for w in wrong]}))
    assert 0 <= error.low <= error.value <= error.high <= 1
    assert not protocol.higher
    assert (error.side, error.threat) == ("estimate", "cifar-c, severities 2, 5")


def test_corruptions_of_mnist_are_its_own_at_their_severities(key):
    asked = dict(PROTOCOLS["corruptions-mnist"].asked)
    assert dict(zip(asked["corruptions"], asked["severity of each"], strict=True)) == jr.corruptions.mnist_c_severity
    some = {"corruptions": ("brightness", "scale"), "severity of each": (5, 3)}
    error = numbers(run_protocol(small("corruptions-mnist", **some), model, X, Y, title="m"))["mean corruption error"]
    wrong = [
        np.asarray(model(jr.corruptions.corrupted(jr.corruptions.mnist_c[k], X, severity=s, key=key))).argmax(1) != Y
        for k, s in (("brightness", 5), ("scale", 3))
    ]
    assert error.value == pytest.approx(np.mean(wrong))
    assert (error.side, error.threat) == ("exact", "mnist-c, one severity each")  # nothing was drawn


def test_average_radius_is_that_of_the_certificate(tmp_path):
    protocol = small("smoothing-digits", n=5, draws=200)
    rows = numbers(run_protocol(protocol, model, X, Y, title="m", out=tmp_path))
    cert = jr.smoothing.certify(model, X[:5], noise=jr.smoothing.gaussian(0.25), n=200, key=jax.random.key(0))
    assert rows["average certified radius"].value == pytest.approx(cert.average_radius(Y[:5]).value)
    assert rows["average certified radius"].confidence == 0.999
    assert rows["average certified radius"].n == 5


def test_too_few_examples_and_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="the first 355 examples of digits; there are 9"):
        run_protocol(PROTOCOLS["linf-digits"], model, X, Y, title="m")
    with pytest.raises(ValueError, match="of kind attacks"):
        run_protocol(dataclasses.replace(small("linf-digits"), kind="luck"), model, X, Y, title="m")


def entry(title="m", weights="0", value=0.5, width=0.01, **changes):
    protocol = dataclasses.replace(PROTOCOLS["linf-digits"], **changes)
    ev = jr.evaluate(model, X, Y, threat=jr.sets.linf(0.1), oracles={}, key=jax.random.key(0))
    clean = jr.evaluation.rows_of(ev, model=title, seed=0)[0]
    ranked = clean._replace(
        name="autoattack", side="lower", threat="linf", eps=0.1, value=value, low=value - width, high=value + width
    )
    return Entry(protocol, protocol.fingerprint, title, weights, (clean, ranked), {"method": "pgd"}, 1.0, {"jax": "0"})


def test_a_leaderboard_comes_back_and_is_ranked(tmp_path):
    file = tmp_path / "deep" / "board.jsonl"
    a, b, c = entry("a", "1", 0.25), entry("<b> | c", "2", 0.75), entry("tie", "3", 0.74)
    assert [add_entry(file, e) for e in (a, b, c, a._replace(model="again"))] == [True, True, True, False]
    assert read_entries(file) == (a, b, c)
    table = leaderboard(read_entries(file))
    ranks = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith(("| 1", "| 2", "| 3"))]
    assert ranks == [["| 1-2", "&lt;b> \\| c"], ["| 1-2", "tie"], ["| 3", "a"]]
    assert table.startswith(RULE)
    assert "autoattack at 0.1 (at most)" in table
    assert "0.7500" in table


def test_less_may_be_better():
    rows = [entry(t, t, v, higher=False) for t, v in (("a", 0.9), ("b", 0.1))]
    lines = [line for line in leaderboard(rows).splitlines() if line.startswith(("| 1", "| 2"))]
    assert lines[0].startswith("| 1 | b")
    assert lines[1].startswith("| 2 | a")


@pytest.mark.parametrize("changes", [{"version": 2}, {"n": 100}, {"asked": (("eps", 0.2),)}])
def test_versions_do_not_mix(tmp_path, changes):
    file = tmp_path / "board.jsonl"
    add_entry(file, entry())
    before = file.read_bytes()
    with pytest.raises(ValueError, match="would mix linf-digits v1"):
        add_entry(file, entry("n", "2", **changes))
    assert file.read_bytes() == before
    with pytest.raises(ValueError, match="would mix linf-digits v1"):
        leaderboard([entry(), entry("n", "2", **changes)])
    add_entry(file, entry("n", "2", name="another", **changes))  # another name is another protocol
    assert len(read_entries(file)) == 2


def test_lines_that_are_no_entries_are_named(tmp_path):
    file = tmp_path / "board.jsonl"
    add_entry(file, entry())
    fields = json.loads(file.read_text())
    for bad in ("{}", "[]", "x", json.dumps(fields | {"rows": []})):
        file.write_text(json.dumps(fields) + "\n" + bad + "\n")
        with pytest.raises(ValueError, match="line 2 is no entry"):
            read_entries(file)
    fields["protocol"]["n"] = 3
    file.write_text(json.dumps(fields) + "\n")
    with pytest.raises(ValueError, match="not the one of its fingerprint"):
        read_entries(file)
    with pytest.raises(ValueError, match="without entries"):
        leaderboard([])


def test_a_line_cut_by_a_kill_is_left_out_and_written_over(tmp_path):
    file = tmp_path / "board.jsonl"
    a, b, c = entry("a", "1"), entry("b", "2"), entry("c", "3")
    add_entry(file, a)
    add_entry(file, b)
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for left in (first + 1, first + 40, len(whole) - 2):
        file.write_bytes(whole[:left])
        with pytest.warns(UserWarning, match="line 2, the last, was cut short"):
            assert read_entries(file) == (a,)
        assert file.read_bytes() == whole[:left]  # reading changes nothing
        with pytest.warns(UserWarning, match="cut short"):
            assert add_entry(file, c)
        assert read_entries(file) == (a, c)
    file.write_bytes(whole[:-1])  # but for its end the line is there
    assert read_entries(file) == (a, b)
    assert add_entry(file, c)
    assert read_entries(file) == (a, b, c)
    for left in (
        first,
        first + 1,
        first + 5,
        first + 40,
        len(whole) - 2,
        len(whole) - 1,
    ):  # the power went: zero bytes follow
        file.write_bytes(whole[:left] + bytes(len(whole) - left + 64))
        with pytest.warns(UserWarning, match="line 2, the last, was cut short"):
            assert read_entries(file) == (a,)
        with pytest.warns(UserWarning, match="cut short"):
            assert add_entry(file, b)
        assert file.read_bytes() == whole
    file.write_bytes(bytes(64))
    with pytest.warns(UserWarning, match="line 1, the last, was cut short"):
        assert read_entries(file) == ()
    # in the middle it is an error, and so is a text of somebody's
    file.write_bytes(b"my notes")
    with pytest.raises(ValueError, match="line 1 is no entry"):
        add_entry(file, c)
    assert file.read_bytes() == b"my notes"
    file.write_bytes(whole[: first - 5] + b"\n" + whole[first:])
    with pytest.raises(ValueError, match="line 1 is no entry"):
        read_entries(file)


def test_the_page_shows_what_the_records_say():
    page = (ROOT / "docs" / "leaderboards.md").read_text()
    records = sorted((ROOT / "experiments" / "records").glob("leaderboard_*.jsonl"))
    assert records
    for file in records:
        assert leaderboard(read_entries(file)) in page, file.name


FINGERPRINTS = {
    "linf-digits v1": "20ac2684d28c",
    "linf-mnist v1": "78ea7f088c73",
    "linf-cifar10 v1": "298c237cad10",
    "verified-digits v1": "ce23ee777f1e",
    "verified-mnist v1": "8c4ee544e109",
    "corruptions-digits v2": "881383a8e172",
    "corruptions-cifar10 v2": "48bcf82eb6aa",
    "corruptions-mnist v1": "dab46a330471",
    "smoothing-digits v1": "d930fafb5d30",
    "smoothing-mnist v1": "00750d972314",
    "smoothing-cifar10 v1": "e66080890730",
}


def test_a_board_that_cannot_take_the_entry_is_refused_before_the_work(tmp_path):
    from jrobust.evaluation._leaderboard import check_board

    protocol = next(iter(jr.evaluation.PROTOCOLS.values()))
    check_board(tmp_path / "new" / "board.jsonl", protocol)
    assert (tmp_path / "new" / "board.jsonl").read_text() == ""
    (tmp_path / "report.md").write_text("# no board\n")
    with pytest.raises(ValueError, match="line 1 is no entry"):
        check_board(tmp_path / "report.md", protocol)
    assert (tmp_path / "report.md").read_text() == "# no board\n"
    with pytest.raises(OSError, match="directory"):
        check_board(tmp_path, protocol)


def test_impossible_numbers_are_not_believed():
    from jrobust.evaluation._report._sections import possible

    row = jr.evaluation.Row("net", "pgd", "linf", 0.1, "lower", 0.5, 0.4, 0.6, 40, 1.0, 0)
    assert possible(row) is row
    with pytest.raises(ValueError, match="outside of its interval"):
        possible(row._replace(value=7.5))
