//! The report: one HTML page that needs nothing else, with plots, figures, the machine, the command and the raw JSON.

use super::contender::BASELINE;
use super::plots::{self, Bar, Curve};
use super::results::{
    IdleResult, Limit, Memory, Metric, Mode, ProfileResult, RateResult, Ratio, Results, Row, Settings,
    Syscalls, Tool,
};
use super::table::{self, number};
use anyhow::Result;
use std::fmt::Write;

/// The whole page. `json` is the raw result, as it is also written beside the page.
pub(super) fn page(results: &Results, json: &str) -> Result<String> {
    let mut body = String::new();
    head(&mut body, results);
    overview(&mut body, results);
    for profile in &results.profiles {
        one_profile(&mut body, profile, &results.settings)?;
    }
    for idle in results.idles() {
        one_idle(&mut body, idle)?;
    }
    how(&mut body, results);
    replies(&mut body, results);
    environment(&mut body, results);
    // A closing tag inside would end the element.
    let json = json.replace('<', "\\u003c");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Ringmill compared</title>\n<style>\n{}</style>\n<body>\n{body}\
         <h2 id=\"raw\">Raw results</h2>\n<p>Every sample, as in <code>results.json</code> beside this page.</p>\n\
         <details><summary>Show the JSON</summary><pre id=\"json\"></pre></details>\n\
         <script type=\"application/json\" id=\"results\">\n{json}\n</script>\n\
         <script>document.getElementById(\"json\").textContent = \
         document.getElementById(\"results\").textContent;</script>\n</body>\n</html>\n",
        include_str!("report.css")
    ))
}

fn head(body: &mut String, results: &Results) {
    let Settings { extent, pairs, seconds, mode, server_cpu, client_cpus, .. } = &results.settings;
    let clients: Vec<String> = client_cpus.iter().map(usize::to_string).collect();
    let place = match mode {
        Mode::Shared => format!("server and client share CPU {server_cpu}"),
        Mode::Split => format!("server on CPU {server_cpu}, client on CPU {}", clients.join(", ")),
    };
    add(body, format_args!("<h1>Ringmill compared</h1>"));
    let environment = &results.environment;
    add(
        body,
        format_args!(
            "<p class=\"soft\">{} &middot; {} &middot; Linux {} &middot; commit {}</p>",
            escape(&results.began),
            escape(&environment.cpu),
            escape(&environment.kernel),
            escape(&environment.commit)
        ),
    );
    add(
        body,
        format_args!(
            "<p>A {extent} run: {pairs} interleaved rounds of {seconds} s for each contender in each profile, one \
             worker each; {place}. Repeat it with:</p><pre>{}</pre>",
            escape(&results.command)
        ),
    );
    for warning in &results.warnings {
        add(body, format_args!("<div class=\"warning\">{}</div>", escape(warning)));
    }
    body.push_str("<nav>");
    for profile in &results.profiles {
        let name = profile.profile.name();
        add(body, format_args!("<a href=\"#{name}\">{name}</a>"));
    }
    for idle in results.idles() {
        let name = idle.profile.name();
        add(body, format_args!("<a href=\"#{name}\">{name}</a>"));
    }
    for (id, name) in
        [("how", "how to read it"), ("replies", "replies"), ("environment", "environment"), ("raw", "raw")]
    {
        add(body, format_args!("<a href=\"#{id}\">{name}</a>"));
    }
    body.push_str("</nav>\n");
}

/// Contenders down, profiles across: the ratio of CPU a request.
fn overview(body: &mut String, results: &Results) {
    let profiles: Vec<&ProfileResult> =
        results.profiles.iter().filter(|profile| !profile.ratios.is_empty()).collect();
    if profiles.is_empty() {
        return;
    }
    let baseline = profiles[0].ratios[0].baseline;
    add(
        body,
        format_args!(
            "<h3>CPU time a request, as a multiple of {baseline}'s</h3><p class=\"soft\">More than 1: it costs more than \
             {baseline}. In italics where the 95% interval spans 1 (no difference) or the pairs are too few.</p>"
        ),
    );
    let mut rows = vec![vec!["contender".to_owned()]];
    rows[0].extend(profiles.iter().map(|profile| profile.profile.name().to_owned()));
    for entrant in &results.contenders {
        let mut cells = vec![escape(entrant.name)];
        for profile in &profiles {
            let of = |ratio: &&Ratio| ratio.contender == entrant.name && ratio.metric == Metric::Cpu;
            cells.push(match profile.ratios.iter().find(of) {
                _ if entrant.name == baseline => "1".to_owned(),
                None => "&ndash;".to_owned(),
                Some(ratio) if is_clear(ratio) => format!("{:.2}", ratio.summary.median),
                Some(ratio) => format!("<i>{:.2}</i>", ratio.summary.median),
            });
        }
        rows.push(cells);
    }
    html_table(body, &rows, "");
}

fn is_clear(ratio: &Ratio) -> bool {
    use ringmill_console::statistics::Verdict;
    matches!(ratio.verdict, Verdict::More | Verdict::Less)
}

fn one_profile(body: &mut String, profile: &ProfileResult, settings: &Settings) -> Result<()> {
    let name = profile.profile.name();
    add(body, format_args!("<h2 id=\"{name}\">{name}</h2><p>{}.</p>", escape(profile.profile.what())));
    if let Some(failed) = &profile.failed {
        add(
            body,
            format_args!(
                "<div class=\"warning\">This profile failed or was cut short: {}</div>",
                escape(failed)
            ),
        );
    }
    if let Some(plot) = cost_plot(profile)? {
        add(body, format_args!("<h3>Cost of a request</h3>{plot}"));
    }
    ratio_plots(body, profile)?;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for row in &profile.rows {
        let cells = table::columns(row, settings);
        if rows.is_empty() {
            let names = cells.iter().map(|(name, _)| (*name).to_owned());
            rows.push(std::iter::once("contender".to_owned()).chain(names).collect());
        }
        let values = cells.iter().map(|(_, value)| escape(value));
        rows.push(std::iter::once(escape(row.contender)).chain(values).collect());
    }
    html_table(body, &rows, "");
    limits(body, profile, settings);
    latency(body, profile)?;
    notes(body, profile);
    Ok(())
}

/// What a request costs each contender; none where nothing was measured.
pub(super) fn cost_plot(profile: &ProfileResult) -> Result<Option<String>> {
    let bar = |row: &Row| {
        let cpu = row.summary(|sample| sample.cpu_us)?;
        let text = number(cpu.median);
        Some(Bar { name: row.contender.to_owned(), value: cpu.median, interval: Some(cpu.interval_95), text })
    };
    let mut bars: Vec<Bar> = profile.rows.iter().filter_map(bar).collect();
    bars.sort_by(|one, other| one.value.total_cmp(&other.value));
    let axis = "CPU microseconds of the server a request: median and 95% interval; less is better";
    (!bars.is_empty()).then(|| plots::bars(axis, &bars)).transpose()
}

fn ratio_plots(body: &mut String, profile: &ProfileResult) -> Result<()> {
    for (metric, title, axis) in [
        (
            Metric::Cpu,
            "Paired ratio of the cost",
            "CPU a request, divided by that of the baseline in the same round",
        ),
        (
            Metric::Rate,
            "Paired ratio of the peak",
            "requests a second, divided by those of the baseline in the same round",
        ),
    ] {
        let of_metric: Vec<&Ratio> = profile.ratios.iter().filter(|ratio| ratio.metric == metric).collect();
        let Some(first) = of_metric.first() else { continue };
        let bar = |ratio: &&Ratio| Bar {
            name: ratio.contender.to_owned(),
            value: ratio.summary.median,
            interval: Some(ratio.summary.interval_95),
            text: format!("{}: {}", table::ratio(ratio), ratio.verdict.text()),
        };
        let mut bars: Vec<Bar> = of_metric.iter().map(bar).collect();
        bars.sort_by(|one, other| one.value.total_cmp(&other.value));
        let plot = plots::ratios(axis, &bars)?;
        add(body, format_args!("<h3>{title}, against {}</h3>{plot}", escape(first.baseline)));
    }
    Ok(())
}

/// Says where a peak is not the server's own.
fn limits(body: &mut String, profile: &ProfileResult, settings: &Settings) {
    let limited = |limit: Limit| -> Vec<&str> {
        let of = profile.rows.iter().filter(|row| row.limit(settings) == Some(limit));
        of.map(|row| row.contender).collect()
    };
    let by_client = limited(Limit::Client);
    let by_none = limited(Limit::Neither);
    if !by_client.is_empty() {
        add(
            body,
            format_args!(
                "<p>The client, not the server, was the limit of: {}. Their requests/s are not their peak, and no ratio of \
                 peaks is given for them.</p>",
                by_client.join(", ")
            ),
        );
    }
    if !by_none.is_empty() {
        add(
            body,
            format_args!(
                "<p>Neither server nor client filled its CPU with: {}. Other programs took the time, or something waited.</p>",
                by_none.join(", ")
            ),
        );
    }
    if settings.mode == Mode::Shared {
        body.push_str(
            "<p class=\"soft\">Server and client share a CPU, so requests/s is that of both together and not what the \
             server could do alone.</p>",
        );
    }
}

fn latency(body: &mut String, profile: &ProfileResult) -> Result<()> {
    for rate in &profile.latency {
        add(
            body,
            format_args!(
                "<h3>Latency at {} requests a second, {}% of the slowest contender's peak</h3>",
                number(rate.requests_per_second),
                rate.percent
            ),
        );
        body.push_str(&plots::curves("microseconds, from when a request was due", &curves(rate))?);
        let mut rows: Vec<Vec<String>> = Vec::new();
        for row in &rate.rows {
            let percentiles = row.percentiles().unwrap_or_default();
            if rows.is_empty() && !percentiles.is_empty() {
                let names = percentiles.iter().map(|(name, _)| format!("{name} us"));
                rows.push(std::iter::once("contender".to_owned()).chain(names).collect());
            }
            let values = percentiles.iter().map(|(_, value)| number(*value));
            rows.push(std::iter::once(escape(row.contender)).chain(values).collect());
        }
        html_table(body, &rows, "");
    }
    if let Some(reason) = &profile.no_latency {
        add(body, format_args!("<p class=\"soft\">Latency at fixed rates: {}.</p>", escape(reason)));
    }
    Ok(())
}

fn curves(rate: &RateResult) -> Vec<Curve> {
    let curve = |row: &super::results::RateRow| {
        let percent = |name: &str| name.strip_prefix('p')?.parse().ok();
        let points = row.percentiles()?.into_iter();
        let points = points.filter_map(|(name, value)| Some((percent(name)?, value))).collect();
        Some(Curve { name: row.contender.to_owned(), points })
    };
    rate.rows.iter().filter_map(curve).collect()
}

fn notes(body: &mut String, profile: &ProfileResult) {
    let mut lines = Vec::new();
    for left_out in &profile.left_out {
        lines.push(format!("{} takes no part: {}.", left_out.contender, left_out.reason));
    }
    for row in &profile.rows {
        match &row.syscalls {
            Syscalls::NotCounted { reason } => {
                lines.push(format!("System calls of {} were not counted: {reason}", row.contender));
            }
            Syscalls::Counted { with: Tool::Strace, .. } => lines.push(format!(
                "System calls of {} were counted with strace, which slows a server down: larger batches, fewer calls.",
                row.contender
            )),
            Syscalls::Counted { with: Tool::Perf, .. } => {}
        }
    }
    if let Some(others) = profile.others() {
        lines.push(format!(
            "Other programs kept {:.2} CPUs busy meanwhile (median; at most {:.2}).",
            others.median, others.max
        ));
    }
    let voids = profile.voids();
    if lines.is_empty() && voids.is_empty() {
        return;
    }
    body.push_str("<ul>");
    for line in lines {
        add(body, format_args!("<li>{}</li>", escape(&line)));
    }
    for void in voids {
        add(body, format_args!("<li class=\"void\">Void: {}</li>", escape(&void)));
    }
    body.push_str("</ul>\n");
}

fn one_idle(body: &mut String, idle: &IdleResult) -> Result<()> {
    add(
        body,
        format_args!(
            "<h2 id=\"{0}\">{0}</h2><p>Growth of the server's anonymous memory (RssAnon) with {1} connections, divided by \
             their number. Kernel memory is not in it.</p>",
            idle.profile.name(),
            number(f64::from(idle.connections))
        ),
    );
    let bar = |row: &super::results::IdleRow| match &row.requested {
        Memory::Bytes(bytes) => {
            let value = bytes.max(0.0);
            Some(Bar { name: row.contender.to_owned(), value, interval: None, text: number(*bytes) })
        }
        Memory::Failed(_) => None,
    };
    let mut bars: Vec<Bar> = idle.rows.iter().filter_map(bar).collect();
    bars.sort_by(|one, other| one.value.total_cmp(&other.value));
    if !bars.is_empty() {
        body.push_str(&plots::bars("bytes a connection after one request; less is better", &bars)?);
    }
    let mut rows = vec![["contender", "only opened", "after a request"].map(str::to_owned).to_vec()];
    for row in &idle.rows {
        let memory = |memory| escape(&table::memory(memory));
        rows.push(vec![escape(row.contender), memory(&row.opened), memory(&row.requested)]);
    }
    html_table(body, &rows, "");
    for left_out in &idle.left_out {
        add(body, format_args!("<p>{} takes no part: {}.</p>", left_out.contender, escape(&left_out.reason)));
    }
    Ok(())
}

fn how(body: &mut String, results: &Results) {
    body.push_str("<h2 id=\"how\">How to read it</h2>\n");
    body.push_str(include_str!("report_how.html"));
    let mut rows = vec![["contender", "what it is", "version"].map(str::to_owned).to_vec()];
    for entrant in &results.contenders {
        rows.push(vec![escape(entrant.name), escape(entrant.what), escape(&entrant.version)]);
    }
    html_table(body, &rows, "text");
    for left_out in &results.left_out {
        add(body, format_args!("<p>{} was left out: {}.</p>", left_out.contender, escape(&left_out.reason)));
    }
}

/// What was compared, byte for byte: only equal replies cost equal work.
fn replies(body: &mut String, results: &Results) {
    body.push_str(
        "<h2 id=\"replies\">Replies</h2><p>Each reply was checked to the last byte before the rounds. Where head sizes \
         differ, the frameworks write other fields, or other words in them.</p>",
    );
    let names = ["contender", "path", "status line", "fields, in order", "head bytes", "body bytes"];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for profile in &results.profiles {
        // One path stands for all of a mix: their heads differ in the length alone.
        for (row, reply) in profile.rows.iter().filter_map(|row| Some((row, row.replies.first()?))) {
            let cells = [
                escape(row.contender),
                escape(&reply.path),
                escape(&reply.status_line),
                escape(&reply.fields.join(", ")),
                reply.head_bytes.to_string(),
                reply.body_bytes.to_string(),
            ];
            if !rows.contains(&cells.to_vec()) {
                rows.push(cells.to_vec());
            }
        }
    }
    html_table(body, &rows, "text");
}

fn environment(body: &mut String, results: &Results) {
    body.push_str("<h2 id=\"environment\">Environment</h2>\n");
    let mut rows = vec![["what", "value"].map(str::to_owned).to_vec()];
    for (name, value) in results.environment.named() {
        rows.push(vec![escape(&name), escape(&value)]);
    }
    html_table(body, &rows, "text");
}

/// The first row is the head. Cells are HTML already.
fn html_table(body: &mut String, rows: &[Vec<String>], class: &str) {
    let Some((head, rows)) = rows.split_first() else { return };
    add(body, format_args!("<div class=\"wide\"><table class=\"{class}\"><tr>"));
    for cell in head {
        add(body, format_args!("<th>{cell}</th>"));
    }
    body.push_str("</tr>\n");
    for row in rows {
        let own = row.first().is_some_and(|name| name == BASELINE);
        body.push_str(if own { "<tr class=\"own\">" } else { "<tr>" });
        for cell in row {
            add(body, format_args!("<td>{cell}</td>"));
        }
        // A contender without figures still has its line.
        for _ in row.len()..head.len() {
            body.push_str("<td>&ndash;</td>");
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table></div>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn add(body: &mut String, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect("writing to a String cannot fail");
    body.push('\n');
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
