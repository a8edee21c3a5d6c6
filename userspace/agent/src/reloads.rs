//! What is asked to be applied, in turn: SIGHUP, `--watch` and the control socket alike. One configuration is read at a time;
//! requests for the folder that is being read share what is read after the last of them.
//!
//! Clients wait in turn, as many as the socket has places for; those that are gone before their folder is read wait no more.
//! What the host's administrator asks for without a client comes next, however many of them wait.

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
    /// What is followed: the folder of the configuration in force.
    followed: Source,
    /// What is being read, and who waits for it.
    reading: Option<(Reading, Waiting)>,
    /// Those who wait for what is read after that.
    later: Waiting,
    /// What comes then, in turn.
    queue: VecDeque<Queued>,
    last: LastApply,
    counts: ApplyCounts,
}

/// A configuration that is to be read.
struct Queued {
    /// `None`: in the folder that is followed by then.
    folder: Option<Folder>,
    /// It is read whether anybody waits or not.
    anyway: bool,
    waiting: Waiting,
}

/// A configuration that was read and is to be applied.
pub(super) struct Due {
    pub(super) loaded: Result<Loaded, RunError>,
    pub(super) ticket: Ticket,
}

/// Who waits for it.
pub(super) struct Ticket {
    source: Source,
    waiting: Waiting,
    /// When its files were read.
    read: Instant,
}

impl Reloads {
    /// `followed`: where the configuration that comes into force first was read. `reading`: what is asked for already.
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

    /// What is followed.
    pub(super) fn source(&self) -> &Source {
        &self.followed
    }

    /// The folder that is followed.
    pub(super) fn followed(&self) -> &Path {
        &self.followed.config
    }

    /// How the last one went.
    pub(super) fn last(&self) -> LastApply {
        self.last.clone()
    }

    /// How many there were.
    pub(super) fn counts(&self) -> ApplyCounts {
        self.counts
    }

    /// A client asks for the configuration in a folder, or in the one that is followed.
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

    /// The configuration that is followed is to be read again, before whatever else waits.
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

    /// Forgets those who wait no more, and what nobody waits for.
    fn forget_gone(&mut self) {
        let is_there = |answer: &Answer<ApplyAnswer>| !answer.is_closed();
        self.later.retain(is_there);
        self.queue.retain_mut(|queued| {
            queued.waiting.retain(is_there);
            queued.anyway || !queued.waiting.is_empty()
        });
    }

    /// What is to be applied next. Nothing is lost when the future is dropped before it is ready.
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
                // Nobody but an administrator's signal, and one client's turn comes before the next signal's.
                Ok(Again::Afterwards) if later.is_empty() => {
                    let next = Queued {
                        folder: None,
                        anyway: true,
                        waiting: later,
                    };
                    self.queue.insert(self.queue.len().min(1), next);
                }
                // They came before all that is in the queue.
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

    /// Tells how that went. `done`: what is in force now, or why nothing is changed.
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
            // A client may be gone.
            let _told = waits.send(answer);
        }
        self.go_on();
    }

    /// Begins to read what is next, if nothing is being read.
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

    /// Folders in which there is nothing to read, which is told of each as soon as it is read.
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

    /// The name of what is read next, which is refused, and how many wait for it.
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
            // While a client's folder is read, and then the one that is followed.
            ask_first(&mut reloads);
            assert_eq!(next(&mut reloads).await, at(name, 1));
            ask_first(&mut reloads);
            assert_eq!(next(&mut reloads).await, at("own", 0));
        }
        assert_eq!(next(&mut reloads).await, at("f10", 1));
        assert_eq!(next(&mut reloads).await, at("f11", 1));
    }
}
