//! The sections of the page.

use std::fmt::Write as _;

use super::chart;
use super::text::{Plain, ago, bytes, ms};
use crate::core::pool::Standing;
use crate::core::status::diagnose::Severity;
use crate::core::status::report::{CircuitReport, HopReport, Report, StreamReport};

/// How far it is, and whether it works.
pub(super) fn state(out: &mut String, report: &Report) {
    let broken = report.findings.iter().any(|finding| finding.severity == Severity::Error);
    let (class, word) = match (broken, report.bootstrap.percent) {
        (true, _) => ("bad", "Not working"),
        (false, 100) => ("good", "Connected"),
        (false, _) => ("busy", "Connecting"),
    };
    let percent = report.bootstrap.percent;
    let _ = write!(
        out,
        "<section id=\"state\" class=\"{class}\"><h2><span class=\"dot\"></span>{word}</h2>\n<p>{}</p>\n",
        Plain(&report.bootstrap.text)
    );
    if percent < 100 {
        let _ = writeln!(
            out,
            "<progress max=\"100\" value=\"{percent}\" aria-label=\"Bootstrap\">{percent} %</progress>"
        );
    }
    let _ = match report.network.list.as_str() {
        "valid" => write!(out, "<p class=\"quiet\">{} relays in the signed list.</p>", report.network.relays),
        _ => Ok(()),
    };
    out.push_str("</section>\n");
}

/// What is wrong. The section is always there, so that a screen reader hears what is added to it.
pub(super) fn findings(out: &mut String, report: &Report) {
    out.push_str("<section id=\"findings\" aria-live=\"polite\">\n");
    for finding in &report.findings {
        let (class, word) = match finding.severity {
            Severity::Error => ("error", "Problem"),
            Severity::Warning => ("warning", "Note"),
        };
        let _ = writeln!(
            out,
            "<div class=\"finding {class}\"><p><strong>{word}: {}</strong></p><p>{}</p></div>",
            Plain(&finding.what),
            Plain(&finding.advice)
        );
    }
    out.push_str("</section>\n");
}

/// Throughput and what cover cost.
pub(super) fn traffic(out: &mut String, report: &Report) {
    let (traffic, cover) = (&report.traffic, &report.cover);
    let figure = |out: &mut String, class: &str, name: &str, rate: String, total: String| {
        let _ = writeln!(
            out,
            "<div class=\"figure {class}\"><dt>{name}</dt><dd><b>{rate}</b><span class=\"quiet\">{total}</span></dd></div>"
        );
    };
    out.push_str("<section id=\"traffic\"><h2>Traffic</h2>\n<dl class=\"figures\">\n");
    let received = format!("{} in all", bytes(traffic.received_bytes));
    figure(out, "received", "Received", format!("{}/s", bytes(traffic.received_bytes_per_s)), received);
    let sent = format!("{} in all", bytes(traffic.sent_bytes));
    figure(out, "sent", "Sent", format!("{}/s", bytes(traffic.sent_bytes_per_s)), sent);
    let spent = cover.sent_bytes.saturating_add(cover.received_bytes);
    let all = traffic.sent_bytes.saturating_add(traffic.received_bytes).max(1);
    let share = 100.0 * spent as f64 / all as f64;
    let rate = cover.sent_bytes_per_s.saturating_add(cover.received_bytes_per_s);
    let class = format!("{} in all, {share:.1} % of everything; class {}", bytes(spent), Plain(&cover.class));
    figure(out, "cover", "Cover traffic", format!("{}/s", bytes(rate)), class);
    out.push_str("</dl>\n");
    chart::throughput(out, &traffic.history);
    out.push_str("</section>\n");
}

/// The circuits with their hops.
pub(super) fn circuits(out: &mut String, report: &Report) {
    let circuits = &report.circuits;
    counted(out, "circuits", "Circuits", circuits.total);
    if circuits.shown.is_empty() {
        out.push_str("<p class=\"quiet\">There are none yet.</p>\n");
    }
    out.push_str("<ol class=\"circuits\">\n");
    circuits.shown.iter().for_each(|shown| circuit(out, shown));
    out.push_str("</ol>\n");
    more(out, circuits.total, circuits.shown.len());
    if !circuits.shown.is_empty() {
        out.push_str(
            "<p class=\"quiet\">Times were taken while the circuit was built: what each hop added to the wait for an \
             answer, its handshake included, and the opening of a connection between two relays where there was \
             none.</p>\n",
        );
    }
    out.push_str("</section>\n");
}

fn circuit(out: &mut String, circuit: &CircuitReport) {
    let (class, word) = match circuit.state {
        Standing::Building => ("building", "being built"),
        Standing::Spare => ("spare", "spare"),
        Standing::InUse => ("in-use", "in use"),
        Standing::Leaving => ("leaving", "no new streams"),
    };
    let streams = match circuit.streams {
        0 => String::new(),
        1 => ", 1 stream".to_owned(),
        many => format!(", {many} streams"),
    };
    let built = circuit.build_ms.map_or_else(String::new, |took| format!(", built in {}", ms(took)));
    let _ = write!(
        out,
        "<li><p><b>Circuit {}</b> <span class=\"tag {class}\">{word}</span> <span class=\"quiet\">{} old{streams}{built}\
         </span></p>\n<ol class=\"hops\"><li class=\"you\">This computer</li>",
        circuit.id,
        ago(circuit.age_s)
    );
    circuit.hops.iter().enumerate().for_each(|(number, shown)| hop(out, number, shown));
    out.push_str("</ol>");
    chart::shares(out, &circuit.hops);
    out.push_str("</li>\n");
}

fn hop(out: &mut String, number: usize, hop: &HopReport) {
    let _ = write!(
        out,
        "<li class=\"hop{0}\"><span class=\"relay\" title=\"{1}\">{1}</span> <span class=\"quiet\">{2}",
        number % 3,
        Plain(&hop.relay),
        Plain(&hop.position),
    );
    if let Some(added) = hop.added_ms {
        let _ = write!(out, ", {}", ms(added));
    }
    if let Some(share) = hop.share_percent {
        let _ = write!(out, " ({share} %)");
    }
    out.push_str("</span></li>");
}

/// The streams, without saying where they lead unless the report does.
pub(super) fn streams(out: &mut String, report: &Report) {
    let streams = &report.streams;
    counted(out, "streams", "Streams", streams.total);
    if streams.shown.is_empty() {
        out.push_str("<p class=\"quiet\">No application is using Tunic at the moment.</p>\n</section>\n");
        return;
    }
    let told = streams.shown.iter().any(|stream| stream.destination.is_some());
    let column = if told { "<th scope=\"col\">To</th>" } else { "" };
    let _ = write!(
        out,
        "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Stream</th><th scope=\"col\">Circuit</th>{column}\
         <th scope=\"col\" class=\"number\">Age</th><th scope=\"col\" class=\"number\">Sent</th>\
         <th scope=\"col\" class=\"number\">Received</th></tr></thead>\n<tbody>\n"
    );
    streams.shown.iter().for_each(|shown| stream(out, shown, told));
    out.push_str("</tbody></table></div>\n");
    more(out, streams.total, streams.shown.len());
    if !told {
        out.push_str(
            "<p class=\"quiet\">Where they lead is not shown here: <code>tunic-client circuits --destinations</code> \
             tells the owner of this client.</p>\n",
        );
    }
    out.push_str("</section>\n");
}

fn stream(out: &mut String, stream: &StreamReport, told: bool) {
    let circuit = stream.circuit.map_or_else(|| "waiting".to_owned(), |id| id.to_string());
    let _ = write!(out, "<tr><td>{} {}</td><td>{circuit}</td>", Plain(&stream.kind), stream.id);
    if told {
        let _ = write!(out, "<td>{}</td>", Plain(stream.destination.as_deref().unwrap_or("")));
    }
    let _ = writeln!(
        out,
        "<td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
        ago(stream.age_s),
        bytes(stream.sent_bytes),
        bytes(stream.received_bytes),
    );
}

/// What failed lately.
pub(super) fn failures(out: &mut String, report: &Report) {
    out.push_str("<section id=\"failures\"><h2>What failed lately</h2>\n");
    if report.failures.is_empty() {
        out.push_str("<p class=\"quiet\">Nothing in the last hour.</p>\n");
    }
    out.push_str("<ul class=\"failures\">\n");
    for failure in &report.failures {
        let times = if failure.times > 1 { format!(", {} times", failure.times) } else { String::new() };
        let relay = failure.relay.as_ref().map_or_else(String::new, |relay| format!(" ({})", Plain(relay)));
        let _ = writeln!(
            out,
            "<li><p><span class=\"tag\">{}</span> {}{relay} <span class=\"quiet\">{} ago{times}</span></p><p \
             class=\"quiet\">{}</p></li>",
            Plain(&failure.kind),
            Plain(&failure.what),
            ago(failure.ago_s),
            Plain(&failure.advice),
        );
    }
    out.push_str("</ul></section>\n");
}

/// Where programs connect.
pub(super) fn ports(out: &mut String, report: &Report) {
    out.push_str("<section id=\"ports\"><h2>Ports</h2>\n<dl class=\"ports\">\n");
    for port in &report.ports {
        let name = match port.name.as_str() {
            "applications" => "Applications (SOCKS, HTTP)",
            "applications-unix" => "Applications (Unix socket)",
            "dns" => "DNS",
            "status" => "This page",
            "control" => "Command line",
            other => other,
        };
        let state = if port.problem.is_some() { " <span class=\"tag leaving\">not open</span>" } else { "" };
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd><code>{}</code>{state}</dd></div>",
            Plain(name),
            Plain(&port.address)
        );
    }
    out.push_str("</dl></section>\n");
}

/// The beginning of a section that lists so many things.
fn counted(out: &mut String, id: &str, title: &str, total: usize) {
    let _ = writeln!(out, "<section id=\"{id}\"><h2>{title} <span class=\"quiet\">{total}</span></h2>");
}

fn more(out: &mut String, total: usize, shown: usize) {
    if total > shown {
        let _ = writeln!(out, "<p class=\"quiet\">and {} more.</p>", total - shown);
    }
}
