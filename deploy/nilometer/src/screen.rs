//! What `up` shows: sources and resources found, rates, lag, freshness, cost so far, the URL.
//!
//! In a terminal the lines are redrawn each second; elsewhere a line is logged now and then.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nilometer_clock::{Clock, SystemClock};
use nilometer_collect::Status;
use nilometer_contract::{MICROS_PER_DAY, Timestamp};
use nilometer_engine::Engine;
use nilometer_ingest::Metrics;
use nilometer_ledger::Ledger;
use nilometer_process::Missing;
use nilometer_usage::Window;
use rustix::termios::tcgetwinsize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use crate::demo::Progress;

const REDRAW: Duration = Duration::from_secs(1);
const LOG_EVERY: u32 = 10;
/// Draws over which the rate is taken: the usual interval of an agent, and one more.
const RATE_DRAWS: usize = 11;
/// How often the cost is computed, and how long that may take.
const COST_EVERY: Duration = Duration::from_secs(30);

/// What there is to show.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(crate) url: String,
    pub(crate) log: String,
    pub(crate) agent: Option<Arc<Status>>,
    pub(crate) missing: Missing,
    pub(crate) ingest: Option<Metrics>,
    pub(crate) engine: Option<Engine>,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) demo: Option<Arc<Progress>>,
}

/// Shows it.
pub(crate) struct Screen {
    shown: Shown,
    terminal: bool,
    lines: usize,
    /// Samples so far at the last draws, for the rate.
    draws: VecDeque<(u64, Instant)>,
    cost: watch::Receiver<String>,
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
        let (_, cost) = watch::channel(String::new());
        Screen { shown, terminal, lines: 0, draws: VecDeque::new(), cost, bar }
    }

    /// Shows until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        // The log line does not tell it.
        let _until_dropped = self.terminal.then(|| self.tell_cost());
        for tick in 0_u32.. {
            if self.terminal {
                let lines = self.draw();
                self.replace(&lines)?;
            } else if tick.is_multiple_of(LOG_EVERY) && tick > 0 {
                let past = self.past().map(|_| "filling in the past".to_owned());
                let state: Vec<String> = self.rates().into_iter().chain(past).collect();
                info!(state = state.join(", "), "running");
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(REDRAW) => {}
            }
        }
        Ok(())
    }

    /// Computes the cost now and then, beside the drawing; not while a past is being filled in,
    /// which has better uses for the processor.
    fn tell_cost(&mut self) -> Option<DropGuard> {
        let ledger = self.shown.ledger.clone()?;
        let demo = self.shown.demo.clone();
        let (tell, cost) = watch::channel(String::new());
        self.cost = cost;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(COST_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                if demo.as_ref().is_some_and(|demo| demo.is_filling()) {
                    continue;
                }
                if let Some(cost) = cost_so_far(&ledger).await {
                    tell.send_replace(cost);
                }
            }
        });
        Some(stop.drop_guard())
    }

    fn replace(&mut self, lines: &[String]) -> anyhow::Result<()> {
        let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
        // A line that wraps would be two to go up.
        let width = tcgetwinsize(std::io::stdout()).map_or(80, |size| usize::from(size.ws_col));
        let lines: Vec<String> = lines.iter().map(|line| cut(line, width.max(20))).collect();
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
        for absent in self.shown.missing.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            lines.push(format!("  {:<10} not found: {}", absent.label, absent.reason));
        }
        if let Some(bar) = self.past() {
            lines.push(bar);
        }
        lines.extend(self.rates().map(|line| format!("  {line}")));
        if !self.cost.borrow().is_empty() {
            lines.push(format!("  cost so far {}", *self.cost.borrow()));
        }
        lines.push("  ask: nilometer sql \"SELECT * FROM resources\"   stop: Ctrl-C".to_owned());
        lines
    }

    /// The demo's past while it is being filled in.
    fn past(&self) -> Option<String> {
        let progress = self.shown.demo.as_ref()?;
        if !progress.is_filling() {
            return None;
        }
        let (steps, done) =
            (progress.steps.load(Ordering::Relaxed), progress.done.load(Ordering::Relaxed));
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

    fn rates(&mut self) -> [String; 2] {
        let Some(ingest) = &self.shown.ingest else { return [String::new(), String::new()] };
        let total = ingest.samples.get();
        self.draws.push_back((total, Instant::now()));
        if self.draws.len() > RATE_DRAWS {
            self.draws.pop_front();
        }
        let (before, since) = self.draws[0];
        let rate = (total - before.min(total)) as f64 / since.elapsed().as_secs_f64().max(1.0);
        let freshness =
            ingest.freshness.get_sample_sum() / ingest.freshness.get_sample_count().max(1) as f64;
        let newest = self.shown.engine.as_ref().map(|engine| engine.meter().newest());
        let newest =
            newest.filter(|at| at.0 > 0).map_or("none yet".to_owned(), |at| at.to_string());
        let count = |value: i64| HumanCount(value.max(0).unsigned_abs());
        let amounts = format!(
            "{} samples, {}/s, {} series, {} in memory, dead letters {}, gaps {}",
            HumanCount(total),
            HumanCount(rate as u64),
            count(ingest.series.get()),
            count(ingest.memory_rows.get()),
            ingest.dead_letters.get(),
            ingest.gaps.get(),
        );
        let lag = count(ingest.lag_records());
        let times = format!("lag {lag} records, freshness {freshness:.2} s, newest {newest}");
        [amounts, times]
    }
}

/// What today (UTC) costs so far; nothing when it cannot be told in time.
async fn cost_so_far(ledger: &Ledger) -> Option<String> {
    let now = SystemClock.now();
    let window = Window { start: Timestamp(now.0 - now.0.rem_euclid(MICROS_PER_DAY)), end: now };
    let cost = tokio::time::timeout(COST_EVERY, ledger.rating.cost(window)).await.ok()?.ok()?;
    Some(format!("{} {cost} today (UTC)", ledger.book().currency().code()))
}

fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
