//! Writing metrics in the text format of Prometheus: the gateway's own, and those of mounted routes.

use std::{fmt, time::Duration};

use broadcast::Histogram;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder},
    metrics::MetricType,
};

/// Writes the response to `GET /metrics`, metric by metric. [`Routes::metrics`](crate::Routes::metrics) gives one:
///
/// ```
/// use broadcast_gateway::MetricsWriter;
///
/// fn write(writer: &mut MetricsWriter<'_>) -> std::fmt::Result {
///     let requests = [(["get"], 7_u64), (["put"], 2)];
///     writer.counter("shop_requests", "Requests of the shop, by method", &["method"], requests)
/// }
/// ```
#[derive(Debug)]
pub struct MetricsWriter<'a>(DescriptorEncoder<'a>);

impl<'s> MetricsWriter<'s> {
    pub(super) fn new(encoder: DescriptorEncoder<'s>) -> Self {
        Self(encoder)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        each: impl FnOnce(MetricEncoder) -> fmt::Result,
    ) -> fmt::Result {
        // Metrics of a process have the same names in every program.
        let name = if name.starts_with("process_") { name.to_owned() } else { format!("broadcast_{name}") };
        each(self.0.encode_descriptor(&name, help, None, kind)?)
    }

    /// Writes a counter: a number that only grows, with a sample for each set of labels' values. `name` has no `broadcast_` in
    /// front and no `_total` behind: these are added.
    ///
    /// # Errors
    ///
    /// Those of the text that is written to; pass them on.
    pub fn counter<'a, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&'a str; N],
        samples: impl IntoIterator<Item = ([&'a str; N], V)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut encoder| {
            samples.into_iter().try_for_each(|(values, value)| {
                let set = pairs(labels, values);
                encoder.encode_family(&set)?.encode_counter::<[(&str, &str); N], _, f64>(&value, None)
            })
        })
    }

    /// Writes a gauge: a number that rises and falls, with a sample for each set of labels' values. `name` has no `broadcast_`
    /// in front, and its unit at the end.
    ///
    /// # Errors
    ///
    /// Those of the text that is written to; pass them on.
    pub fn gauge<'a, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&'a str; N],
        samples: impl IntoIterator<Item = ([&'a str; N], V)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut encoder| {
            samples.into_iter().try_for_each(|(values, value)| {
                let set = pairs(labels, values);
                encoder.encode_family(&set)?.encode_gauge(&value)
            })
        })
    }

    /// Writes a histogram of durations. `name` has no `broadcast_` in front, and ends with `_seconds`.
    ///
    /// # Errors
    ///
    /// Those of the text that is written to; pass them on.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        self.buckets(name, help, histogram.sum(), histogram.buckets())
    }

    /// Writes a histogram of durations with any buckets: each has its upper bound, `None` for the last one, and how many
    /// durations fell into it.
    ///
    /// # Errors
    ///
    /// Those of the text that is written to; pass them on.
    pub fn buckets(
        &mut self,
        name: &str,
        help: &str,
        sum: Duration,
        buckets: impl IntoIterator<Item = (Option<Duration>, u64)>,
    ) -> fmt::Result {
        let bound = |bound: Option<Duration>| bound.map_or(f64::MAX, |bound| bound.as_secs_f64());
        let buckets: Vec<_> = buckets.into_iter().map(|(upper, count)| (bound(upper), count)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.family(name, help, MetricType::Histogram, |mut encoder| {
            encoder.encode_histogram::<[(&str, &str); 0]>(sum.as_secs_f64(), count, &buckets, None)
        })
    }
}

fn pairs<'a, const N: usize>(labels: &[&'a str; N], values: [&'a str; N]) -> [(&'a str, &'a str); N] {
    std::array::from_fn(|i| (labels[i], values[i]))
}
