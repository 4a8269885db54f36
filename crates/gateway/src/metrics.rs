//! `GET /metrics`: what a node counts, for Prometheus.
//!
//! Names follow Prometheus' conventions: base units, and `_total` for what only grows. A scraper knows which instance it asks;
//! `broadcast_build_info` has the node's name, to join other metrics with. Dashboards use the names, so these stay though fields
//! were renamed.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    extract::State,
    http::{Uri, header},
    response::{IntoResponse, Response},
};
use broadcast::{
    Gauges, LimitCounts, MembershipCounts, MessageCounts, Metrics, Overview, RejectionCounts, SentBytes, Traffic,
};
use nix::sys::resource::{UsageWho, getrusage};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text},
    registry::Registry,
};

use super::{
    app::{App, Counts},
    metrics_writer::MetricsWriter,
    problem::Problem,
    query,
    status_cache::NodeStatus,
};

/// How many members, and origins, have a line of their own: those that are most behind.
const MOST: usize = 100;
/// The unit in which the kernel counts a process' start, per second, on every platform that there is a build for.
const TICKS: f64 = 100.0;

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::reject_any(&uri)?;
    let now = app.look().await;
    if now.overview.members.is_empty() {
        return Err(Problem::stopped());
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(AppMetrics { app, now }));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).expect("a text takes everything");
    Ok(([(header::CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text).into_response())
}

#[derive(Debug)]
struct AppMetrics {
    app: Arc<App>,
    now: Arc<NodeStatus>,
}

impl Collector for AppMetrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let writer = &mut MetricsWriter::new(encoder);
        let Metrics { traffic, sent, membership, messages, rejected, over_limit, gauges, gossip, push_pull, delivery } =
            &self.now.metrics;
        let version = env!("CARGO_PKG_VERSION");
        let info = [([self.app.node.name(), version], 1_u64)];
        writer.gauge("build_info", "This node's name and version", &["node", "version"], info)?;
        write_traffic(writer, traffic)?;
        write_sent(writer, sent)?;
        write_membership(writer, membership)?;
        write_messages(writer, messages)?;
        write_refusals(writer, rejected, over_limit)?;
        write_gauges(writer, gauges)?;
        writer.histogram("gossip_round_seconds", "Time to build and send a round of gossip", gossip)?;
        writer.histogram("push_pull_seconds", "Duration of exchanges of views that this node started", push_pull)?;
        let help = "Time until all live members had a message of this node";
        writer.histogram("delivery_seconds", help, delivery)?;
        write_overview(writer, &self.now.overview)?;
        write_http(writer, &self.app.counts)?;
        write_process(writer)?;
        self.app.mounted_metrics.iter().try_for_each(|more| more.write(writer))
    }
}

fn write_traffic(writer: &mut MetricsWriter, traffic: &Traffic) -> fmt::Result {
    let &Traffic {
        udp_sent,
        udp_received,
        packets_sent,
        packets_received,
        tcp_sent,
        tcp_received,
        tcp_accept,
        tcp_connect,
    } = traffic;
    let samples = [
        (["sent", "udp"], udp_sent),
        (["received", "udp"], udp_received),
        (["sent", "tcp"], tcp_sent),
        (["received", "tcp"], tcp_received),
    ];
    writer.counter("bytes", "Bytes sent and received over the network", &["direction", "transport"], samples)?;
    let samples = [(["sent"], packets_sent), (["received"], packets_received)];
    writer.counter("packets", "Datagrams", &["direction"], samples)?;
    let samples = [(["self"], tcp_connect), (["other"], tcp_accept)];
    writer.counter("streams_opened", "Streams, by the side that opened them", &["by"], samples)
}

fn write_sent(writer: &mut MetricsWriter, sent: &SentBytes) -> fmt::Result {
    let &SentBytes { probes, members, messages, receipts, repair, serf, views } = sent;
    let samples = [
        (["probe"], probes),
        (["member"], members),
        (["message"], messages),
        (["receipt"], receipts),
        (["repair"], repair),
        (["serf"], serf),
        (["view"], views),
    ];
    writer.counter("sent_bytes", "Bytes sent, by the kind of content", &["kind"], samples)
}

fn write_membership(writer: &mut MetricsWriter, counts: &MembershipCounts) -> fmt::Result {
    let &MembershipCounts {
        alive,
        suspect,
        dead,
        suspicions_expired,
        degraded_timeouts,
        false_alarms,
        refutations,
        name_conflicts,
        pings,
        indirect_pings,
        acks,
        nacks,
        probes_ok,
        probes_failed,
        probes_degraded,
        ref probe,
    } = counts;
    let samples = [(["alive"], alive), (["suspect"], suspect), (["dead"], dead)];
    writer.counter("member_news", "News about members that this node accepted", &["what"], samples)?;
    for (name, help, count) in [
        ("suspicions_expired", "Members declared dead because a suspicion timed out", suspicions_expired),
        ("degraded_timeouts", "Suspicions that timed out with fewer confirmations than expected", degraded_timeouts),
        ("false_alarms", "Suspicions that the suspected member refuted", false_alarms),
        ("refutations", "Claims about this node that it refuted", refutations),
        ("name_conflicts", "Conflicts between members with the same name", name_conflicts),
        ("probes_degraded", "Probes that were given more time because this node is slow", probes_degraded),
    ] {
        writer.counter(name, help, &[], [([], count)])?;
    }
    let samples = [(["ping"], pings), (["indirect_ping"], indirect_pings), (["ack"], acks), (["nack"], nacks)];
    writer.counter("probe_messages", "Probe messages that arrived", &["what"], samples)?;
    let samples = [(["answered"], probes_ok), (["failed"], probes_failed)];
    writer.counter("probes", "Probes that have ended", &["result"], samples)?;
    writer.histogram("probe_seconds", "Duration of probes, with or without an answer", probe)
}

fn write_messages(writer: &mut MetricsWriter, counters: &MessageCounts) -> fmt::Result {
    let &MessageCounts {
        published,
        delivered,
        requested,
        retransmitted,
        copies,
        duplicates,
        missed,
        strangers,
        past_epochs,
        address_mismatches,
        unusable,
        serf_events_dropped,
    } = counters;
    for (name, help, count) in [
        ("messages_published", "Messages that this node published", published),
        ("messages_delivered", "Messages of other nodes that were delivered here", delivered),
        ("messages_wanted", "Missing messages that this node asked for, counted each time", requested),
        ("messages_given", "Messages sent to nodes that asked for them", retransmitted),
        ("messages_copies", "Messages that arrived, including duplicates", copies),
        ("messages_duplicates", "Messages that arrived although they were here already", duplicates),
        ("messages_missed", "Messages that no member had any more", missed),
        (
            "members_heard_elsewhere",
            "Members whose packets came from another address than they advertise",
            address_mismatches,
        ),
        ("messages_without_serf_event", "Messages that the agents of a serf cluster do not get", serf_events_dropped),
    ] {
        writer.counter(name, help, &[], [([], count)])?;
    }
    let samples = [(["stranger"], strangers), (["former_life"], past_epochs), (["unusable"], unusable)];
    writer.counter("messages_dropped", "Messages, and reports about messages, that were dropped", &["why"], samples)
}

fn write_refusals(writer: &mut MetricsWriter, rejected: &RejectionCounts, over_limit: &LimitCounts) -> fmt::Result {
    let &RejectionCounts { packets, members, views, messages, streams } = rejected;
    let samples = [
        (["packet"], packets),
        (["member"], members),
        (["view"], views),
        (["message"], messages),
        (["stream"], streams),
    ];
    writer.counter("rejected", "Input that was rejected", &["what"], samples)?;
    let &LimitCounts { members, streams, stream_bytes, stream_sizes, stream_times, packets, pings, relays, queued } =
        over_limit;
    let samples = [
        (["members"], members),
        (["streams"], streams),
        (["stream_bytes"], stream_bytes),
        (["stream_sizes"], stream_sizes),
        (["stream_times"], stream_times),
        (["packets"], packets),
        (["pings"], pings),
        (["relays"], relays),
        (["queued"], queued),
    ];
    writer.counter("over_limit", "Input that was dropped because it exceeded a limit", &["bound"], samples)
}

fn write_gauges(writer: &mut MetricsWriter, gauges: &Gauges) -> fmt::Result {
    let &Gauges {
        health_score,
        alive,
        suspect,
        dead,
        left,
        queued,
        queued_messages,
        streams,
        stream_bytes,
        over_tcp,
        small_datagrams,
        view_sent,
        view_received,
    } = gauges;
    let samples = [(["alive"], alive), (["suspect"], suspect), (["dead"], dead), (["left"], left)];
    writer.gauge("members", "Members as this node sees them, including itself", &["state"], samples)?;
    let samples = [(["tcp"], over_tcp), (["small_datagrams"], small_datagrams)];
    writer.gauge(
        "members_reached",
        "Members that are not reached in the usual way, by how they are reached",
        &["by"],
        samples,
    )?;
    let samples = [(["members"], queued), (["plain_messages"], queued_messages)];
    writer.gauge("queued", "News and messages that wait to be sent", &["what"], samples)?;
    for (name, help, value) in [
        ("health_score", "How slow this node believes itself to be; 0 is healthy", health_score as usize),
        ("streams", "Streams that are open", streams),
        ("streams_buffered_bytes", "Bytes of incomplete messages on streams", stream_bytes),
    ] {
        writer.gauge(name, help, &[], [([], value)])?;
    }
    let samples = [(["sent"], view_sent), (["received"], view_received)];
    writer.gauge("view_bytes", "Size of the view that was last sent, and last received", &["direction"], samples)
}

fn write_overview(writer: &mut MetricsWriter, overview: &Overview) -> fmt::Result {
    let Overview { joined, leaving, members, positions, .. } = overview;
    writer.gauge("joined", "Whether this node has joined its cluster", &[], [([], u64::from(*joined))])?;
    writer.gauge("leaving", "Whether this node has begun to leave", &[], [([], u64::from(*leaving))])?;
    let retained: usize = positions.iter().map(|position| position.retained).sum();
    writer.gauge("retained_messages", "Messages that are kept for other members", &[], [([], retained)])?;
    let lags = members.iter().filter_map(|seen| Some((seen.member.name.to_string(), seen.lag?)));
    let help = "Messages of this node that a member has not acknowledged, for the 100 members that lag most";
    write_behind(writer, "member_lag_messages", help, "member", lags.collect())?;
    let mut missing = BTreeMap::<_, u64>::new();
    for position in positions {
        // An origin has several epochs if it was restarted.
        *missing.entry(position.origin.to_string()).or_default() += position.end.saturating_sub(position.next);
    }
    let help = "Messages of an origin that are known to be missing here, for the 100 origins with the most";
    write_behind(writer, "missing_messages", help, "origin", missing.into_iter().collect())
}

fn write_behind(
    writer: &mut MetricsWriter,
    name: &str,
    help: &str,
    label: &str,
    mut behind: Vec<(String, u64)>,
) -> fmt::Result {
    behind.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    writer.gauge(name, help, &[label], behind.iter().take(MOST).map(|(name, count)| ([name.as_str()], *count)))
}

fn write_http(writer: &mut MetricsWriter, counts: &Counts) -> fmt::Result {
    let Counts { connections, followers, refused, handshakes_failed, cut_off, .. } = counts;
    let (connections, followers) = (connections.load(Ordering::Relaxed), followers.load(Ordering::Relaxed));
    writer.gauge("http_connections", "HTTP connections that are open", &[], [([], connections)])?;
    writer.gauge("http_followers", "HTTP clients that follow messages or events", &[], [([], followers)])?;
    let (refused, cut_off) = (refused.load(Ordering::Relaxed), cut_off.load(Ordering::Relaxed));
    writer.counter("http_refused", "HTTP connections that were refused because of the limit", &[], [([], refused)])?;
    let failed = handshakes_failed.load(Ordering::Relaxed);
    writer.counter("http_tls_handshakes_failed", "TLS handshakes that came to nothing", &[], [([], failed)])?;
    writer.counter("http_cut_off", "HTTP clients that were cut off because they did not keep up", &[], [([], cut_off)])
}

/// What the system says of this process. What it does not say is left out.
fn write_process(writer: &mut MetricsWriter) -> fmt::Result {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let seconds: f64 = [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .iter()
            .sum();
        writer.counter("process_cpu_seconds", "Processor time that was used", &[], [([], seconds)])?;
    }
    if let Ok(bytes) = resident() {
        writer.gauge("process_resident_memory_bytes", "Memory in use", &[], [([], bytes)])?;
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        writer.gauge("process_open_fds", "Open files and sockets", &[], [([], files.count())])?;
    }
    if let Ok(time) = started() {
        writer.gauge("process_start_time_seconds", "Start time, in seconds since 1970", &[], [([], time)])?;
    }
    Ok(())
}

fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib: u64 = number(status.lines().find_map(|line| line.strip_prefix("VmRSS:")))?;
    Ok(kib * 1024)
}

fn started() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let boot: f64 = number(stat.lines().find_map(|line| line.strip_prefix("btime")))?;
    let own = fs::read_to_string("/proc/self/stat")?;
    // The program's name comes before, in parentheses, and may contain anything.
    let ticks: f64 = number(own.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(19)))?;
    Ok(boot + ticks / TICKS)
}

/// The first word of a text, as a number.
fn number<T: std::str::FromStr>(text: Option<&str>) -> io::Result<T> {
    let word = text.and_then(|text| text.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
