//! Calls over the control socket on a host with many other tasks: the time to the answer, and the part that taskgate's
//! own work takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::ControlEffort;
use crate::table::table;
use testkit::{
    Daemon, Process,
    control::{ControlSocket, HttpAnswer},
    scale::{GROUP, Tasks},
};

/// Each call's time, and taskgate's own CPU time for all of its rounds.
struct Calls {
    name: &'static str,
    times: Vec<Duration>,
    cpu: Duration,
}

impl Calls {
    fn measure(
        name: &'static str,
        daemon: &Daemon,
        rounds: usize,
        mut call: impl FnMut(usize) -> Result<HttpAnswer>,
    ) -> Result<Self> {
        let before = Process::of(daemon)?.cpu;
        let mut times = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let began = Instant::now();
            let answer = call(round).context(name)?;
            times.push(began.elapsed());
            ensure!(
                (200..300).contains(&answer.status),
                "{name}: {}: {}",
                answer.status,
                answer.text()
            );
        }
        times.sort_unstable();
        let cpu = Process::of(daemon)?.cpu.saturating_sub(before);
        Ok(Self { name, times, cpu })
    }

    fn row(&self) -> [String; 6] {
        let milliseconds = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        let each = self.cpu / u32::try_from(self.times.len()).unwrap_or(1).max(1);
        let at = |at: usize| self.times.get(at).copied().map(milliseconds).unwrap_or_default();
        [
            self.name.to_owned(),
            at(self.times.len() / 2),
            at(0),
            at(self.times.len().saturating_sub(1)),
            milliseconds(each),
            String::new(),
        ]
    }
}

/// Measures calls while `others` other tasks exist.
pub(super) fn measure(effort: ControlEffort, say: &dyn Fn(&str)) -> Result<String> {
    let ControlEffort { others, rounds, .. } = effort;
    say(&format!("calls beside {others} tasks"));
    let tasks = Tasks::new(others)?;
    let daemon = tasks.start(&tasks.config(true))?;
    let socket = ControlSocket::of(&tasks.instance());
    let name = |round: usize| format!("added-{round}");
    let add = |round: usize| {
        let (high, low) = (round / 200, round % 200 + 1);
        let address = format!("10.87.{high}.{low}");
        let namespace = format!("{}-{}", tasks.instance(), name(round));
        let task = json!({ "name": name(round), "groups": [GROUP], "addresses": [address], "namespace": namespace });
        socket.post("/v1/tasks", &task)
    };
    let isolate = |undo: bool| {
        let socket = &socket;
        move |round: usize| socket.post(&format!("/v1/tasks/{}/isolate", name(round)), &json!({ "undo": undo }))
    };
    let remove = |round: usize| socket.call("DELETE", &format!("/v1/tasks/{}", name(round)), "");
    let status = |_: usize| socket.get("/v1/status");
    let apply = |_: usize| socket.post("/v1/apply", &json!({}));
    let rows = [
        Calls::measure("task added", &daemon, rounds, add)?,
        Calls::measure("task isolated", &daemon, rounds, isolate(false))?,
        Calls::measure("task restored", &daemon, rounds, isolate(true))?,
        Calls::measure("task removed", &daemon, rounds, remove)?,
        Calls::measure("status", &daemon, rounds, status)?,
        Calls::measure("apply, nothing changed", &daemon, rounds, apply)?,
    ]
    .map(|calls| calls.row());
    daemon.stop()?;
    tasks.await_gone()?;
    let heading = format!("milliseconds for an answer, {others} other tasks");
    let heading = [&*heading, "median", "least", "most", "CPU time of taskgate", ""];
    Ok(format!("\n{}", table(heading, &rows)))
}
