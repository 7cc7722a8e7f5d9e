from __future__ import annotations

from pushserver.core.histogram import BOUNDS, Histogram, Histograms


def test_a_duration_counts_in_every_bucket_whose_bound_it_does_not_pass() -> None:
    histogram = Histogram()
    histogram.observe(0.005)
    histogram.observe(0.006, times=2)
    buckets = dict(histogram.buckets())
    assert (buckets["0.0025"], buckets["0.005"], buckets["0.01"], buckets["+Inf"]) == (0, 1, 3, 3)
    assert histogram.count == 3
    assert round(histogram.sum, 6) == 0.017


def test_what_takes_longer_than_every_bound_is_counted_too() -> None:
    histogram = Histogram()
    histogram.observe(BOUNDS[-1] + 1)
    assert histogram.buckets()[-2:] == [("10.0", 0), ("+Inf", 1)]


def test_a_clock_that_was_set_back_costs_no_negative_sum() -> None:
    histogram = Histogram()
    histogram.observe(-3)
    assert (histogram.buckets()[0][1], histogram.sum) == (1, 0.0)


def test_known_series_are_there_before_anything_is_counted() -> None:
    histograms = Histograms(("call", "status"), [("publish", "200")])
    assert [(values, one.count) for values, one in histograms] == [(("publish", "200"), 0)]
    histograms.of("publish", "400").observe(0.1)
    histograms.of("publish", "200").observe(0.2)
    assert [(values, one.count) for values, one in histograms] == [(("publish", "200"), 1), (("publish", "400"), 1)]
    assert histograms.total[0] == 2
