//! What is counted, in the text format of Prometheus: the gateway's own metrics, and those of what is mounted.

use std::{fmt, time::Duration};

use broadcast::Histogram;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder},
    metrics::MetricType,
};

/// The answer to `GET /metrics`, written metric by metric.
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
        // What every process tells has the same name for all.
        let name = if name.starts_with("process_") { name.to_owned() } else { format!("broadcast_{name}") };
        each(self.0.encode_descriptor(&name, help, None, kind)?)
    }

    /// Numbers that only grow, each with a value for each of the labels. `name` is without `broadcast_` in front and without
    /// `_total` behind.
    ///
    /// # Errors
    ///
    /// Those of what is written to; pass them on.
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

    /// Numbers that rise and fall, each with a value for each of the labels. `name` is without `broadcast_` in front, and has
    /// its unit at the end.
    ///
    /// # Errors
    ///
    /// Those of what is written to; pass them on.
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

    /// How long something takes. `name` is without `broadcast_` in front, and ends with `_seconds`.
    ///
    /// # Errors
    ///
    /// Those of what is written to; pass them on.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        self.buckets(name, help, histogram.sum(), histogram.buckets())
    }

    /// The same, counted in buckets of one's own: the bound of each, `None` for the last one, and how many it has that none
    /// before it has.
    ///
    /// # Errors
    ///
    /// Those of what is written to; pass them on.
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
