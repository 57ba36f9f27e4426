//! What `up` shows: sources and resources found, rates, lag, freshness, cost so far, the URL.
//!
//! In a terminal the lines are redrawn each second; elsewhere a line is logged now and then.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nilometer_agent::Status;
use nilometer_ingest::Metrics;
use nilometer_sql::Engine;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::demo::Progress;

const REDRAW: Duration = Duration::from_secs(1);
const LOG_EVERY: u32 = 10;
const COST_EVERY: u32 = 10;

/// What there is to show.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(crate) url: String,
    pub(crate) log: String,
    pub(crate) agent: Option<Arc<Status>>,
    pub(crate) absent: Vec<(&'static str, String)>,
    pub(crate) ingest: Option<Metrics>,
    pub(crate) engine: Option<Engine>,
    pub(crate) demo: Option<Arc<Progress>>,
}

/// Shows it.
pub(crate) struct Screen {
    shown: Shown,
    terminal: bool,
    lines: usize,
    samples: (u64, Instant),
    cost: String,
    bar: ProgressBar,
}

/// Prints a text on standard output.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

impl Screen {
    pub(crate) fn new(shown: Shown, terminal: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent}%  {eta} left") {
            bar.set_style(style);
        }
        let samples = (0, Instant::now());
        Screen { shown, terminal, lines: 0, samples, cost: String::new(), bar }
    }

    /// Shows until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        for tick in 0_u32.. {
            if tick.is_multiple_of(COST_EVERY) {
                self.cost = self.cost_so_far().await;
            }
            if self.terminal {
                let lines = self.draw();
                self.replace(&lines)?;
            } else if tick.is_multiple_of(LOG_EVERY) && tick > 0 {
                info!(state = self.rates(), "running");
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(REDRAW) => {}
            }
        }
        Ok(())
    }

    fn replace(&mut self, lines: &[String]) -> anyhow::Result<()> {
        let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
        let body: String = lines.iter().map(|line| format!("\x1b[2K{line}\n")).collect();
        let rest = self.lines.saturating_sub(lines.len());
        let blank = "\x1b[2K\n".repeat(rest);
        self.lines = lines.len() + rest;
        say(&format!("{up}{body}{blank}"))
    }

    fn draw(&mut self) -> Vec<String> {
        let mut lines = vec![format!("nilometer   {}   log: {}", self.shown.url, self.shown.log)];
        if let Some(agent) = &self.shown.agent {
            let report = agent.report();
            for source in &report.sources {
                let state = match &source.error {
                    Some(error) => format!("failing: {error}"),
                    None => format!("{} resources", source.alive),
                };
                lines.push(format!("  {:<10} {:<28} {state}", source.name, cut(&source.found, 60)));
            }
            if let Some(error) = &report.log_error {
                let spool = HumanBytes(report.spool_bytes);
                lines.push(format!("  log away   {}; {spool} in the spool", cut(error, 60)));
            }
        }
        for (name, reason) in &self.shown.absent {
            lines.push(format!("  {name:<10} not found: {}", cut(reason, 60)));
        }
        if let Some(bar) = self.past() {
            lines.push(bar);
        }
        lines.push(format!("  {}", self.rates()));
        if !self.cost.is_empty() {
            lines.push(format!("  cost so far  {}", self.cost));
        }
        lines.push("  ask: nilometer sql \"SELECT kind, count(*) FROM resources GROUP BY kind\"   stop: Ctrl-C".to_owned());
        lines
    }

    /// The demo's past while it is being filled in.
    fn past(&self) -> Option<String> {
        let progress = self.shown.demo.as_ref()?;
        let (steps, done) =
            (progress.steps.load(Ordering::Relaxed), progress.done.load(Ordering::Relaxed));
        if steps == 0 || done >= steps {
            return None;
        }
        let filled = (done * 40 / steps) as usize;
        let samples = HumanCount(progress.samples.load(Ordering::Relaxed));
        self.bar.set_length(steps);
        self.bar.set_position(done);
        let left = self.bar.eta().as_secs();
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(40 - filled));
        Some(format!(
            "  demo's past {bar} {}%  {samples} samples, {left} s left",
            done * 100 / steps
        ))
    }

    fn rates(&mut self) -> String {
        let Some(ingest) = &self.shown.ingest else { return String::new() };
        let total = ingest.samples.get();
        let (before, since) = self.samples;
        let rate = (total - before.min(total)) as f64 / since.elapsed().as_secs_f64().max(0.001);
        self.samples = (total, Instant::now());
        let freshness =
            ingest.freshness.get_sample_sum() / ingest.freshness.get_sample_count().max(1) as f64;
        let newest = self.shown.engine.as_ref().map(|engine| engine.meter().newest());
        let newest =
            newest.filter(|at| at.0 > 0).map_or("none yet".to_owned(), |at| at.to_string());
        let past = self.past().map(|_| ", filling in the past").unwrap_or_default();
        format!(
            "{} samples stored, {rate:.0}/s, {} series, {} in memory, mean freshness {freshness:.2} s, newest {newest}, dead letters {}, gaps {}{past}",
            HumanCount(total),
            HumanCount(ingest.series.get().max(0) as u64),
            HumanCount(ingest.memory_rows.get().max(0) as u64),
            ingest.dead_letters.get(),
            ingest.gaps.get(),
        )
    }

    async fn cost_so_far(&self) -> String {
        let Some(engine) = &self.shown.engine else { return String::new() };
        let query = "SELECT currency, sum(amount) AS amount FROM charges \
                     WHERE start >= date_bin(INTERVAL '1 day', now()) GROUP BY currency";
        let asked = tokio::time::timeout(Duration::from_secs(5), engine.query(query)).await;
        let Ok(Ok(rows)) = asked else { return String::new() };
        let Ok(bytes) = nilometer_sql::render(&rows, nilometer_sql::Format::Csv) else {
            return String::new();
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines = text.lines().skip(1).map(|line| line.replace(',', " "));
        let costs: Vec<String> = lines.map(|line| cut(&line, 16)).collect();
        if costs.is_empty() { String::new() } else { format!("{} today (UTC)", costs.join(", ")) }
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
