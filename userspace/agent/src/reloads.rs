//! The queue of configurations to be applied, for SIGHUP, `--watch` and the control socket alike. One configuration is
//! read at a time; requests for the folder that is being read share the result that is read after the last of them.
//!
//! Clients wait in turn, as many as the socket has places for; clients that disconnect before their folder is read are
//! forgotten. A request of the host's administrator without a client (SIGHUP, `--watch`) comes next, however many
//! clients wait.

use std::{collections::VecDeque, mem, path::Path, time::Instant};

use taskgate_api::{Applied, ApplyOutcome, LastApply, ProblemDetails};
use tracing::error;

use super::{
    control::{Answer, ApplyAnswer},
    error::{RunError, StartError, chain},
    metrics::ApplyCounts,
    reading::{Again, Folder, Loaded, Reading, Source},
    refusal::refusal,
    unix_time,
};

type Waiting = Vec<Answer<ApplyAnswer>>;

/// The configurations that are to be applied.
pub(super) struct Reloads {
    /// The source that is followed: that of the configuration in force.
    followed: Source,
    /// The configuration that is being read, and the clients that wait for it.
    reading: Option<(Reading, Waiting)>,
    /// The clients that wait for the reading after that.
    later: Waiting,
    /// The configurations to be read afterwards, in turn.
    queue: VecDeque<Queued>,
    last: LastApply,
    counts: ApplyCounts,
}

/// A configuration that is to be read.
struct Queued {
    /// The folder; `None`: the one that is followed by the time it is read.
    folder: Option<Folder>,
    /// Whether it is read even if no client waits for it.
    anyway: bool,
    waiting: Waiting,
}

/// A configuration that was read and is to be applied.
pub(super) struct Due {
    pub(super) loaded: Result<Loaded, RunError>,
    pub(super) ticket: Ticket,
}

/// The source of a configuration and the clients that wait for its outcome.
pub(super) struct Ticket {
    source: Source,
    waiting: Waiting,
    /// When reading its files was finished.
    read: Instant,
}

impl Reloads {
    /// `followed`: the source of the configuration that comes into force first. `reading`: a reading that was already
    /// requested.
    pub(super) fn new(followed: Source, reading: Option<Reading>) -> Self {
        let last = LastApply {
            at: unix_time().as_secs(),
            result: ApplyOutcome::Applied,
            took: None,
            config: followed.config.display().to_string(),
            detail: None,
            errors: Vec::new(),
        };
        Self {
            followed,
            reading: reading.map(|reading| (reading, Vec::new())),
            later: Vec::new(),
            queue: VecDeque::new(),
            last,
            counts: ApplyCounts { applied: 1, refused: 0 },
        }
    }

    /// The source that is followed.
    pub(super) fn source(&self) -> &Source {
        &self.followed
    }

    /// The folder that is followed.
    pub(super) fn followed(&self) -> &Path {
        &self.followed.config
    }

    /// The outcome of the last apply.
    pub(super) fn last(&self) -> LastApply {
        self.last.clone()
    }

    /// The number of applies, by outcome.
    pub(super) fn counts(&self) -> ApplyCounts {
        self.counts
    }

    /// Queues a client's request for the configuration in a folder, or in the one that is followed.
    pub(super) fn ask(&mut self, folder: Option<Folder>, answer: Answer<ApplyAnswer>) {
        let source = self.followed.with(folder.clone());
        self.forget_gone();
        match &mut self.reading {
            // The files that are being read may be older than the request.
            Some((reading, _)) if *reading.source() == source && self.queue.is_empty() => {
                reading.ask_again();
                self.later.push(answer);
            }
            _ => match self.queue.back_mut() {
                Some(last) if last.folder == folder => last.waiting.push(answer),
                _ => self.queue.push_back(Queued {
                    folder,
                    anyway: false,
                    waiting: vec![answer],
                }),
            },
        }
        self.go_on();
    }

    /// Queues reading the followed configuration again, ahead of all other requests.
    pub(super) fn ask_first(&mut self) {
        match (&mut self.reading, self.queue.front_mut()) {
            (Some((reading, _)), _) if *reading.source() == self.followed => reading.ask_again(),
            (_, Some(first)) if first.folder.is_none() => first.anyway = true,
            _ => self.queue.push_front(Queued {
                folder: None,
                anyway: true,
                waiting: Vec::new(),
            }),
        }
        self.go_on();
    }

    /// Forgets clients that disconnected, and queued configurations that no client waits for.
    fn forget_gone(&mut self) {
        let is_there = |answer: &Answer<ApplyAnswer>| !answer.is_closed();
        self.later.retain(is_there);
        self.queue.retain_mut(|queued| {
            queued.waiting.retain(is_there);
            queued.anyway || !queued.waiting.is_empty()
        });
    }

    /// The next configuration to be applied. Cancel safe.
    pub(super) async fn next(&mut self) -> Due {
        loop {
            let Some((reading, _)) = &mut self.reading else {
                std::future::pending::<()>().await;
                continue;
            };
            let loaded = reading.done().await;
            let again = reading.begin_again();
            if matches!(again, Ok(Again::Now)) {
                if let Some((_, waiting)) = &mut self.reading {
                    waiting.append(&mut self.later);
                }
                continue;
            }
            let Some((reading, mut waiting)) = self.reading.take() else {
                continue;
            };
            let source = reading.source().clone();
            self.forget_gone();
            let later = mem::take(&mut self.later);
            match again {
                Ok(Again::No | Again::Now) => waiting.extend(later),
                // Only a signal or the watch asked for this. One client's turn comes before it, so that signals cannot
                // starve clients.
                Ok(Again::Afterwards) if later.is_empty() => {
                    let next = Queued {
                        folder: None,
                        anyway: true,
                        waiting: later,
                    };
                    self.queue.insert(self.queue.len().min(1), next);
                }
                // These clients came before all that are in the queue.
                Ok(Again::Afterwards) => self.queue.push_front(Queued {
                    folder: Some(source.folder()),
                    anyway: true,
                    waiting: later,
                }),
                Err(error) => log_refused(&error, later),
            }
            return Due {
                loaded,
                ticket: Ticket {
                    source,
                    waiting,
                    read: Instant::now(),
                },
            };
        }
    }

    /// Reports the outcome to those who wait for it. `done`: the configuration now in force, or why nothing was
    /// changed.
    pub(super) fn done(&mut self, ticket: Ticket, done: Result<Applied, &RunError>) {
        let Ticket { source, waiting, read } = ticket;
        let config = source.config.display().to_string();
        let answer = done.map_err(refusal);
        self.last = LastApply {
            at: unix_time().as_secs(),
            result: if answer.is_ok() {
                ApplyOutcome::Applied
            } else {
                ApplyOutcome::Refused
            },
            took: Some(read.elapsed().as_millis() as u64),
            config: config.clone(),
            detail: answer.as_ref().err().map(|problem| problem.detail.clone()),
            errors: answer
                .as_ref()
                .err()
                .map(|problem| problem.errors.clone())
                .unwrap_or_default(),
        };
        if answer.is_ok() {
            self.followed = source;
            self.counts.applied += 1;
        } else {
            self.counts.refused += 1;
        }
        for waits in waiting {
            let answer = answer.clone().map(|applied| Applied {
                config: config.clone(),
                ..applied
            });
            // The client may have disconnected.
            let _told = waits.send(answer);
        }
        self.go_on();
    }

    /// Starts reading the next configuration, if none is being read.
    fn go_on(&mut self) {
        self.forget_gone();
        while self.reading.is_none()
            && let Some(Queued { folder, waiting, .. }) = self.queue.pop_front()
        {
            match Reading::begin(self.followed.with(folder)) {
                Ok(reading) => self.reading = Some((reading, waiting)),
                Err(error) => log_refused(&error, waiting),
            }
        }
    }
}

fn log_refused(error: &StartError, waiting: Waiting) {
    error!("reload refused: {}", chain(error));
    let problem = ProblemDetails {
        title: String::from("the configuration cannot be read"),
        status: 503,
        detail: chain(error),
        errors: Vec::new(),
    };
    for waits in waiting {
        let _told = waits.send(Err(problem.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tokio::sync::oneshot;

    use super::*;

    /// Folders that do not exist, so that reading any of them fails at once.
    struct Folders(PathBuf);

    impl Folders {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("taskgate-reloads-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn source(&self, name: &str) -> Source {
            Source {
                config: self.0.join(name),
                interval: None,
                rights: None,
            }
        }

        fn ask(&self, reloads: &mut Reloads, name: &str) -> oneshot::Receiver<ApplyAnswer> {
            let (answer, answered) = oneshot::channel();
            reloads.ask(Some(self.source(name).folder()), answer);
            answered
        }
    }

    impl Drop for Folders {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// Reads the next configuration, which is refused. Returns its folder's name and the number of clients that wait
    /// for it.
    async fn next(reloads: &mut Reloads) -> (String, usize) {
        let Due { loaded, ticket } = reloads.next().await;
        let name = ticket.source.config.file_name().unwrap().to_string_lossy().into_owned();
        let waiting = ticket.waiting.len();
        reloads.done(ticket, Err(&loaded.unwrap_err()));
        (name, waiting)
    }

    fn at(name: &str, waiting: usize) -> (String, usize) {
        (name.to_owned(), waiting)
    }

    #[tokio::test]
    async fn who_is_gone_is_not_read_for() {
        let folders = Folders::new("gone");
        let mut reloads = Reloads::new(folders.source("own"), None);
        let first = folders.ask(&mut reloads, "first");
        for round in 0..1000 {
            drop(folders.ask(&mut reloads, &format!("gone-{}", round % 3)));
        }
        let second = folders.ask(&mut reloads, "second");
        drop(folders.ask(&mut reloads, "second"));
        drop(folders.ask(&mut reloads, "gone"));
        assert!(reloads.queue.len() <= 2, "{}", reloads.queue.len());
        assert_eq!(next(&mut reloads).await, at("first", 1));
        assert_eq!(next(&mut reloads).await, at("second", 1));
        assert!(reloads.reading.is_none() && reloads.queue.is_empty());
        assert_eq!(first.await.unwrap().unwrap_err().status, 422);
        assert_eq!(second.await.unwrap().unwrap_err().status, 422);
    }

    #[tokio::test]
    async fn a_signal_waits_for_no_client_and_no_client_for_all_signals() {
        let folders = Folders::new("signal");
        let mut reloads = Reloads::new(folders.source("own"), None);
        let names: Vec<String> = (0..50).map(|n| format!("f{n}")).collect();
        let _clients: Vec<_> = names.iter().map(|name| folders.ask(&mut reloads, name)).collect();
        let ask_first = |reloads: &mut Reloads| (0..10).for_each(|_| reloads.ask_first());
        for name in &names[..10] {
            // Signals arrive while a client's folder is read, and again while the followed one is.
            ask_first(&mut reloads);
            assert_eq!(next(&mut reloads).await, at(name, 1));
            ask_first(&mut reloads);
            assert_eq!(next(&mut reloads).await, at("own", 0));
        }
        assert_eq!(next(&mut reloads).await, at("f10", 1));
        assert_eq!(next(&mut reloads).await, at("f11", 1));
    }
}
